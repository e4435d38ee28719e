//! `tenantry user update` and `user rename`.

use tenantry::UserUpdate;

use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::Format;
use crate::session::{finish, report_change};
use crate::user_ref::UserRef;

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    email: &str,
    expected_version: Option<u64>,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let update = UserUpdate { email: Some(email.parse()?), expected_version };
    let store = dir.open().await?;
    let updated = store
        .write(move |tx| {
            let id = user.find(tx)?.id;
            tx.update(id, &update).map_err(Failure::from)
        })
        .await;
    finish(&store, updated).await.and_then(|user| report_change("user update", format, &user))
}
