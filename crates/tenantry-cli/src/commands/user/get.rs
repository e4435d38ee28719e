//! `tenantry user get`.

use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::finish;
use crate::user_ref::UserRef;

pub(super) async fn run(dir: &DataDir, format: Format<'_>, user: &str) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let store = dir.open().await?;
    let found = user.find_in(&store).await;
    finish(&store, found).await.and_then(|user| output::user(format, &user))
}
