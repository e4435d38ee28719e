//! `tenantry user login`.

use tenantry::User;

use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::session::{finish, report_change};
use crate::stdio::report;
use crate::user_ref::UserRef;

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    create: bool,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let user = if create { sign_in(dir, user).await? } else { record(dir, user).await? };
    report_change("user login", format, &user)
}

/// Records a login, and creates the user if there is none.
async fn sign_in(dir: &DataDir, user: UserRef) -> Result<User, Failure> {
    let UserRef::Email(email) = user else {
        return Err(Failure::new(Exit::Usage, "--create needs an email address, not an id"));
    };
    let store = dir.open_or_create().await?;
    let signed_in = finish(&store, store.sign_in(email).await.map_err(Failure::from)).await?;
    if signed_in.is_new {
        report!("created the user");
    }
    Ok(signed_in.user)
}

/// Records a login of an existing user.
async fn record(dir: &DataDir, user: UserRef) -> Result<User, Failure> {
    let store = dir.open().await?;
    let recorded = store
        .write(move |tx| {
            let id = user.find(tx)?.id;
            tx.record_login(id).map_err(Failure::from)
        })
        .await;
    finish(&store, recorded).await
}
