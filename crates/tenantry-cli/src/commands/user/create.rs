//! `tenantry user create`.

use tenantry::{NewUser, Store, User};
use tenantry_exchange::printable;

use super::profile::Values;
use crate::args::{CreateUser, OnLookalike};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::session::{finish, report_change};
use crate::stdio::report;

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    args: CreateUser,
) -> Result<(), Failure> {
    let Values { name, external_id, attributes } = args.profile.parse()?;
    let new = NewUser {
        id: args.id.map(|id| id.parse()).transpose()?,
        storage_path: args.storage_path.map(|path| path.parse()).transpose()?,
        name,
        external_id,
        attributes,
        ..NewUser::new(args.email.parse()?)
    };
    if let Some(scratch) = dir.scratch().await? {
        // A refused argument must not create a store.
        let rehearsal = create(&scratch, new.clone(), args.adopt, OnLookalike::Ignore).await;
        scratch.remove().await?;
        rehearsal?;
    }
    let store = dir.open_or_create().await?;
    let created = create(&store, new, args.adopt, args.on_lookalike).await;
    finish(&store, created).await.and_then(|user| report_change("user create", format, &user))
}

async fn create(
    store: &Store,
    new: NewUser,
    adopt: bool,
    on_lookalike: OnLookalike,
) -> Result<User, Failure> {
    let (user, confusable) = store
        .write(move |tx| {
            let mut user = tx.create(&new)?;
            let confusable = match on_lookalike {
                OnLookalike::Ignore => None,
                OnLookalike::Warn | OnLookalike::Refuse => {
                    tx.confusables(&new.email)?.into_iter().next()
                }
            };
            if let (OnLookalike::Refuse, Some(other)) = (on_lookalike, &confusable) {
                let message = format!(
                    "{}; --on-lookalike warn creates the user all the same",
                    looks_like(other)
                );
                return Err(Failure::new(Exit::Conflict, message));
            }
            if adopt {
                user = tx.adopt(user.id, &user.storage_path)?;
            }
            Ok((user, confusable))
        })
        .await?;
    if let Some(other) = confusable {
        report!("{}: are they the same person?", looks_like(&other));
    }
    Ok(user)
}

fn looks_like(other: &User) -> String {
    format!("the address looks like that of {} ({})", printable(other.email.as_str()), other.id)
}
