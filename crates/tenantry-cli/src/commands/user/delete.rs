//! `tenantry user delete`.

use tenantry::{ErrorKind, ReadTx, Store, User};
use tenantry_exchange::printable;

use super::many::{self, Chosen, Verb, choose};
use crate::args::DeleteUsers;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::{Format, pluralize};
use crate::prompt::confirm;
use crate::session::{finish, log_change};
use crate::stdio::report;
use crate::user_ref::UserRef;

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    args: DeleteUsers,
) -> Result<(), Failure> {
    let names = args.users;
    let (chosen, flags) = choose(!names.is_empty(), args.many)?;
    if let Chosen::Where(filter) = chosen {
        return many::run(dir, format, Verb::Delete, filter, flags).await;
    }
    let refs = names.iter().map(|name| UserRef::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let store = dir.open().await?;
    let deleted = delete(&store, names, refs, flags.yes).await;
    finish(&store, deleted).await
}

/// Moves users to the trash, or none of them if one doesn't exist at the beginning.
async fn delete(
    store: &Store,
    names: Vec<String>,
    refs: Vec<UserRef>,
    yes: bool,
) -> Result<(), Failure> {
    let users = find_all(store, names, refs).await?;
    confirm(yes, "deleted", || match &users[..] {
        [user] => format!("Move {} ({}) to the trash?", printable(user.email.as_str()), user.id),
        users => format!("Move {} to the trash?", pluralize(users.len() as u64, "user")),
    })?;
    for (index, user) in users.iter().enumerate() {
        delete_one(store, user).await.map_err(|failure| match index {
            0 => failure,
            _ => {
                failure.with_subject(&user.id.to_string()).with_outcome("those before were deleted")
            }
        })?;
    }
    Ok(())
}

/// Returns the users, each once.
async fn find_all(
    store: &Store,
    names: Vec<String>,
    refs: Vec<UserRef>,
) -> Result<Vec<User>, Failure> {
    let find = move |tx: &ReadTx<'_>| -> Result<Vec<User>, Failure> {
        let mut users: Vec<User> = Vec::new();
        for (name, user) in names.iter().zip(&refs) {
            let user = user.find(tx).map_err(|failure| match refs.len() {
                1 => failure,
                _ => failure.with_subject(&printable(name)).with_outcome("nothing was deleted"),
            })?;
            if users.iter().all(|other| other.id != user.id) {
                users.push(user);
            }
        }
        Ok(users)
    };
    store.read(find).await
}

async fn delete_one(store: &Store, user: &User) -> Result<(), Failure> {
    match store.delete(user.id).await {
        Ok(user) => {
            log_change("user delete", user.id);
            report!(
                "moved {} ({}) to the trash; `tenantry user restore {}` brings them back",
                printable(user.email.as_str()),
                user.id,
                user.id
            );
        }
        // Another process was faster, with the same result.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            report!("another process has deleted the user")
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
