//! `tenantry user suspend` and `user resume`.

use tenantry::{User, UserId, WriteTx};

use super::many::{self, Chosen, Verb, choose};
use crate::args::SuspendUsers;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::Format;
use crate::session::{finish, report_change};
use crate::user_ref::UserRef;

pub(super) async fn suspend(
    dir: &DataDir,
    format: Format<'_>,
    args: SuspendUsers,
) -> Result<(), Failure> {
    let user = args.user.unwrap_or_default();
    let (chosen, flags) = choose(!user.is_empty(), args.many)?;
    if let Chosen::Where(filter) = chosen {
        return many::run(dir, format, Verb::Suspend, filter, flags).await;
    }
    change(dir, format, &user, "user suspend", |tx, id| tx.suspend(id)).await
}

pub(super) async fn resume(dir: &DataDir, format: Format<'_>, user: &str) -> Result<(), Failure> {
    change(dir, format, user, "user resume", |tx, id| tx.resume(id)).await
}

async fn change(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    verb: &str,
    change: impl FnOnce(&mut WriteTx<'_>, UserId) -> tenantry::Result<User> + Send + 'static,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let store = dir.open().await?;
    let changed = store
        .write(move |tx| {
            let id = user.find(tx)?.id;
            change(tx, id).map_err(Failure::from)
        })
        .await;
    finish(&store, changed).await.and_then(|user| report_change(verb, format, &user))
}
