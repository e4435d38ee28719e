//! `tenantry user update` and `user rename`.

use tenantry::{Set, UserUpdate};

use super::profile::Values;
use crate::args::UpdateUser;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::Format;
use crate::session::{finish, report_change};
use crate::user_ref::UserRef;

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    args: UpdateUser,
) -> Result<(), Failure> {
    let user = UserRef::parse(&args.user)?;
    let email = args.email.map(|email| email.parse()).transpose()?;
    let Values { name, external_id, attributes } = args.profile.parse()?;
    let update = UserUpdate {
        email,
        external_id: set(external_id, args.clear_external_id),
        name: set(name, args.clear_name),
        attributes: set(attributes, args.clear_attributes),
        expected_version: args.expect_version,
    };
    update_user(dir, format, user, update).await
}

pub(super) async fn rename(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    email: &str,
    expected_version: Option<u64>,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let update =
        UserUpdate { email: Some(email.parse()?), expected_version, ..UserUpdate::default() };
    update_user(dir, format, user, update).await
}

fn set<T>(value: Option<T>, is_cleared: bool) -> Set<T> {
    match value {
        Some(value) => Set::To(value),
        None if is_cleared => Set::Clear,
        None => Set::Leave,
    }
}

async fn update_user(
    dir: &DataDir,
    format: Format<'_>,
    user: UserRef,
    update: UserUpdate,
) -> Result<(), Failure> {
    let store = dir.open().await?;
    let updated = store
        .write(move |tx| {
            let id = user.find(tx)?.id;
            tx.update(id, &update).map_err(Failure::from)
        })
        .await;
    finish(&store, updated).await.and_then(|user| report_change("user update", format, &user))
}
