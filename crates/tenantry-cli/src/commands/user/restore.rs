//! `tenantry user restore`.

use tenantry::{Email, ErrorKind, Store, User};

use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::session::{finish, report_change};
use crate::user_ref::UserRef;

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    email: Option<&str>,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let email = email.map(str::parse).transpose()?;
    let store = dir.open().await?;
    let restored = restore(&store, &user, email).await;
    finish(&store, restored).await.and_then(|user| report_change("user restore", format, &user))
}

/// Restores a user. An address is accepted if exactly one user in the trash has it.
async fn restore(store: &Store, user: &UserRef, email: Option<Email>) -> Result<User, Failure> {
    let id = match user {
        UserRef::Id(id) => *id,
        UserRef::Email(address) => match &store.find_in_trash(address).await?[..] {
            [] => {
                return Err(Failure::new(
                    Exit::NotFound,
                    "there is no user in the trash with this email address",
                ));
            }
            [trashed] => trashed.user.id,
            several => {
                let ids: Vec<String> =
                    several.iter().map(|trashed| trashed.user.id.to_string()).collect();
                let message = format!(
                    "several users in the trash have this email address, the last deleted first: {}; name one by the id",
                    ids.join(", ")
                );
                return Err(Failure::new(Exit::Invalid, message));
            }
        },
    };
    match store.restore(id, email).await {
        Err(error) if error.kind() == ErrorKind::EmailTaken => {
            let by = error.taken_by().map(|other| format!(": {other}")).unwrap_or_default();
            let message =
                format!("another user has the email address now{by}; --email sets another");
            Err(Failure::new(Exit::Conflict, message))
        }
        restored => restored.map_err(Failure::from),
    }
}
