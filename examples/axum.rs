//! A small application on axum: sign-in, notes in a table of its own, and files of each user.
//!
//! `cargo run --bin axum -- DATA-DIR` serves it on port 3000 until Ctrl-C. A real application takes
//! the user from its session; here the id is in the path.

use std::error::Error as StdError;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tenantry::{Email, Store, UserId, sqlite};
use tenantry_examples::status;
use tokio::net::TcpListener;

/// The application's own tables, in the store's file.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE notes (
        note_id INTEGER PRIMARY KEY,
        user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        text TEXT NOT NULL
    ) STRICT",
    "CREATE INDEX notes_by_user ON notes (user_id)",
];

/// An error as a response.
struct Failure(tenantry::Error);

impl From<tenantry::Error> for Failure {
    fn from(error: tenantry::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match StatusCode::from_u16(status(&self.0)) {
            Ok(status) if status != StatusCode::INTERNAL_SERVER_ERROR => {
                (status, self.0.to_string()).into_response()
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

#[derive(Deserialize)]
struct SignIn {
    email: Email,
}

#[derive(Serialize)]
struct SignedIn {
    id: UserId,
    is_new: bool,
}

/// Finds the user or creates them, after whatever proves who they are. `Json` returns 422 for a
/// malformed address.
async fn sign_in(
    State(store): State<Store>,
    Json(form): Json<SignIn>,
) -> Result<Json<SignedIn>, Failure> {
    let found = store.sign_in(form.email).await?;
    Ok(Json(SignedIn { id: found.user.id, is_new: found.is_new }))
}

/// Adds a note. One of a user who doesn't exist is refused by the foreign key, which makes a 409.
async fn add_note(
    State(store): State<Store>,
    Path(user): Path<UserId>,
    text: String,
) -> Result<StatusCode, Failure> {
    let insert = move |tx: &mut tenantry::WriteTx<'_>| {
        let mut insert = sqlite::connection(tx)
            .prepare_cached("INSERT INTO notes (user_id, text) VALUES (?1, ?2)")?;
        insert.execute((user, text))?;
        Ok::<_, tenantry::Error>(())
    };
    store.write(insert).await?;
    Ok(StatusCode::CREATED)
}

async fn notes(
    State(store): State<Store>,
    Path(user): Path<UserId>,
) -> Result<Json<Vec<String>>, Failure> {
    let select = move |tx: &tenantry::ReadTx<'_>| {
        let conn = sqlite::connection(tx);
        let mut select =
            conn.prepare_cached("SELECT text FROM notes WHERE user_id = ?1 ORDER BY note_id")?;
        let texts = select.query_map([user], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok::<_, tenantry::Error>(texts)
    };
    Ok(Json(store.read(select).await?))
}

/// Keeps a file. The work on it is done on another thread than those that serve requests.
async fn put_file(
    State(store): State<Store>,
    Path((user, name)): Path<(UserId, String)>,
    content: Bytes,
) -> Result<StatusCode, Failure> {
    store.with_directory(user, move |files| files.write(name, content)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn get_file(
    State(store): State<Store>,
    Path((user, name)): Path<(UserId, String)>,
) -> Result<Vec<u8>, Failure> {
    Ok(store.with_directory(user, move |files| files.read(name)).await?)
}

/// Moves a user to the trash. A purge destroys them later, with their files and notes.
async fn leave(
    State(store): State<Store>,
    Path(user): Path<UserId>,
) -> Result<StatusCode, Failure> {
    store.delete(user).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn router(store: Store) -> Router {
    Router::new()
        .route("/sign-in", post(sign_in))
        .route("/users/{user}", delete(leave))
        .route("/users/{user}/notes", get(notes).post(add_note))
        .route("/users/{user}/files/{name}", get(get_file).put(put_file))
        .with_state(store)
}

/// Serves until `stop` is ready, completes the requests in progress, and closes the store.
async fn serve(
    listener: TcpListener,
    store: Store,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    store.write(|tx| sqlite::migrate(tx, "notes", MIGRATIONS)).await?;
    axum::serve(listener, router(store.clone())).with_graceful_shutdown(stop).await?;
    store.close().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError + Send + Sync>> {
    let data_dir = std::env::args_os().nth(1).ok_or("name the data directory")?;
    let store = Store::open(data_dir).await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let stop = async {
        // If the signal can't be waited for, the service ends at once rather than never.
        let _ = tokio::signal::ctrl_c().await;
    };
    serve(listener, store, stop).await
}

#[cfg(test)]
mod tests {
    use tenantry_examples::request;
    use tokio::sync::oneshot;
    use tokio::task::spawn_blocking;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_application_serves_its_requests_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, store.clone(), async {
            let _ = stopped.await;
        }));

        let client = spawn_blocking(move || {
            let send = |method, path: &str, body| request(address, method, path, body).unwrap();
            let (status, body) = send("POST", "/sign-in", r#"{"email":"Ada@Example.com"}"#);
            assert_eq!(status, 200, "{body}");
            assert!(body.contains(r#""is_new":true"#), "{body}");
            assert!(
                send("POST", "/sign-in", r#"{"email":"ada@example.com"}"#)
                    .1
                    .contains(r#""is_new":false"#)
            );
            let (status, body) = send("POST", "/sign-in", r#"{"email":"ada at example.com"}"#);
            assert_eq!(status, 422);
            assert!(body.contains("a space"), "{body}");
            body
        });
        client.await.unwrap();

        let ada =
            store.get_by_email(&"ada@example.com".parse().unwrap()).await.unwrap().unwrap().id;
        let client = spawn_blocking(move || {
            let send = |method, path: &str, body| request(address, method, path, body).unwrap();
            let user = format!("/users/{ada}");
            assert_eq!(send("POST", &format!("{user}/notes"), "buy tea").0, 201);
            assert_eq!(send("GET", &format!("{user}/notes"), "").1, r#"["buy tea"]"#);
            let nobody = "/users/3fa2b1c4-0000-4000-8000-000000000001";
            assert_eq!(send("POST", &format!("{nobody}/notes"), "whose?").0, 409);

            assert_eq!(send("PUT", &format!("{user}/files/notes.txt"), "hello").0, 204);
            assert_eq!(send("GET", &format!("{user}/files/notes.txt"), "").1, "hello");
            assert_eq!(send("GET", &format!("{user}/files/other.txt"), "").0, 404);
            assert_eq!(send("GET", &format!("{user}/files/..%2F..%2Fother.txt"), "").0, 400);
            assert_eq!(send("GET", &format!("{nobody}/files/notes.txt"), "").0, 404);

            assert_eq!(send("DELETE", &user, "").0, 204);
            assert_eq!(send("DELETE", &user, "").0, 404);
        });
        client.await.unwrap();

        // A restore brings the notes back with the user: the row stays in `users` until the purge.
        store.restore(ada, None).await.unwrap();
        assert_eq!(
            notes(State(store.clone()), Path(ada)).await.map_err(|_| "failed").unwrap().0,
            ["buy tea"]
        );
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert_eq!(store.get(ada).await.unwrap_err().kind(), tenantry::ErrorKind::Closed);
    }
}
