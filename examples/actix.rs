//! A small application on Actix Web: sign-in, and files of each user.
//!
//! `cargo run --bin actix -- DATA-DIR` serves it on port 3000 until Ctrl-C. A real application
//! takes the user from its session; here the id is in the path.

use std::error::Error as StdError;
use std::fmt;
use std::net::TcpListener;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, Json, Path, ServiceConfig};
use actix_web::{App, HttpResponse, HttpServer, ResponseError, delete, get, post, put};
use serde::{Deserialize, Serialize};
use tenantry::{Email, Store, UserId};
use tenantry_examples::status;

/// An error as a response.
#[derive(Debug)]
struct Failure(tenantry::Error);

impl From<tenantry::Error> for Failure {
    fn from(error: tenantry::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.status_code().is_server_error() {
            f.write_str("try again later")
        } else {
            self.0.fmt(f)
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(status(&self.0)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
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

/// Finds the user or creates them, after whatever proves who they are.
#[post("/sign-in")]
async fn sign_in(store: Data<Store>, form: Json<SignIn>) -> Result<Json<SignedIn>, Failure> {
    let found = store.sign_in(form.into_inner().email).await?;
    Ok(Json(SignedIn { id: found.user.id, is_new: found.is_new }))
}

/// Keeps a file. The work on it is done on another thread than those that serve requests.
#[put("/users/{user}/files/{name}")]
async fn put_file(
    store: Data<Store>,
    path: Path<(UserId, String)>,
    content: Bytes,
) -> Result<HttpResponse, Failure> {
    let (user, name) = path.into_inner();
    store.with_directory(user, move |files| files.write(name, content)).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[get("/users/{user}/files/{name}")]
async fn get_file(store: Data<Store>, path: Path<(UserId, String)>) -> Result<Vec<u8>, Failure> {
    let (user, name) = path.into_inner();
    Ok(store.with_directory(user, move |files| files.read(name)).await?)
}

/// Moves a user to the trash. A purge destroys them later, with their files.
#[delete("/users/{user}")]
async fn leave(store: Data<Store>, user: Path<UserId>) -> Result<HttpResponse, Failure> {
    store.delete(user.into_inner()).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn routes(config: &mut ServiceConfig) {
    config.service(sign_in).service(put_file).service(get_file).service(leave);
}

/// Begins to serve. The server ends at Ctrl-C, or by its handle, after the requests in
/// progress.
fn start(listener: TcpListener, store: Store) -> std::io::Result<actix_web::dev::Server> {
    let application = move || App::new().app_data(web::Data::new(store.clone())).configure(routes);
    Ok(HttpServer::new(application).workers(2).listen(listener)?.run())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let data_dir = std::env::args_os().nth(1).ok_or("name the data directory")?;
    let store = Store::open(data_dir).await?;
    start(TcpListener::bind("127.0.0.1:3000")?, store.clone())?.await?;
    store.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tenantry_examples::request;

    use super::*;

    #[actix_web::test]
    async fn the_application_serves_its_requests_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = start(listener, store.clone()).unwrap();
        let handle = server.handle();
        let server = actix_web::rt::spawn(server);

        let client = move || {
            let send = |method, path: &str, body| request(address, method, path, body).unwrap();
            let (status, body) = send("POST", "/sign-in", r#"{"email":"Ada@Example.com"}"#);
            assert_eq!(status, 200, "{body}");
            let id = body.split('"').nth(3).unwrap();
            let user = format!("/users/{id}");
            assert_eq!(send("PUT", &format!("{user}/files/notes.txt"), "hello").0, 204);
            assert_eq!(send("GET", &format!("{user}/files/notes.txt"), "").1, "hello");
            assert_eq!(send("GET", &format!("{user}/files/other.txt"), "").0, 404);
            assert_eq!(send("GET", &format!("{user}/files/..%2F..%2Fother.txt"), "").0, 400);
            assert_eq!(send("DELETE", &user, "").0, 204);
            assert_eq!(send("DELETE", &user, "").0, 404);
        };
        actix_web::rt::task::spawn_blocking(client).await.unwrap();

        handle.stop(true).await;
        server.await.unwrap().unwrap();
        assert_eq!(store.count().await.unwrap(), 0);
        store.close().await.unwrap();
    }
}
