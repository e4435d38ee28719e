//! `tenantry user export-archive` and `import-archive`.

use std::path::Path;

use serde_json::json;
use tenantry::{ErrorKind, UserId, UserManifest, read_user_manifest};
use tenantry_exchange::printable;

use crate::commands::archive_report::{Progress, explain, fail_if_incomplete, report_left_out};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, pluralize};
use crate::session::{finish, log_change};
use crate::stdio::{self, report};
use crate::target::check_archive;
use crate::user_ref::UserRef;

pub(super) async fn export(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    file: &Path,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    check_archive(file, dir)?;
    let store = dir.open().await?;
    let id = match &user {
        // The export reports whether the user is in the trash.
        UserRef::Id(id) => *id,
        UserRef::Email(_) => match user.find_in(&store).await {
            Ok(user) => user.id,
            Err(failure) => return finish(&store, Err(failure)).await,
        },
    };
    let progress = Progress::new();
    let exported = store.export_user(id, file, progress.callback()).await;
    progress.end();
    let exported =
        finish(&store, exported.map_err(|error| explain(error, file, "nothing was exported")))
            .await?;
    log_change("user export-archive", id);
    show(format, file, &exported.manifest, &[("archive_bytes", json!(exported.archive_bytes))])?;
    report_left_out(&exported.left_out);
    if exported.incomplete == 0 {
        return Ok(());
    }
    let message = format!(
        "the archive was written, but {} of the user's files or directories could not be included",
        exported.incomplete
    );
    Err(Failure::new(Exit::Failure, message))
}

pub(super) async fn import(dir: &DataDir, format: Format<'_>, file: &Path) -> Result<(), Failure> {
    stdio::refuse_stream(file, "the archive of a user is")?;
    let explain = |error: tenantry::Error, id: Option<UserId>| match error.kind() {
        ErrorKind::Unfinished | ErrorKind::OutcomeUnknown => Failure::from(error),
        ErrorKind::EmailTaken if error.taken_by() == id => Failure::new(
            Exit::Conflict,
            format!("{}: the user exists already; nothing was imported", file.display()),
        ),
        ErrorKind::EmailTaken => {
            let by = error.taken_by().map(|other| format!(": {other}")).unwrap_or_default();
            let message = format!(
                "{}: another user has the email address{by}; nothing was imported",
                file.display()
            );
            Failure::new(Exit::Conflict, message)
        }
        _ => explain(error, file, "nothing was imported"),
    };
    // A file that isn't such an archive must not create a store.
    let id = read_user_manifest(file).await.map_err(|error| explain(error, None))?.user.id;
    if let Some(scratch) = dir.scratch().await? {
        // Nor must an archive that is damaged further down. No room for the rehearsal proves
        // nothing.
        let progress = Progress::new();
        let rehearsal = scratch.import_user(file, progress.callback()).await;
        progress.end();
        scratch.remove().await.map_err(|failure| failure.with_outcome("nothing was imported"))?;
        if let Err(error) = rehearsal
            && (matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible)
                || Exit::from_kind(error.kind()) == Exit::Invalid)
        {
            return Err(explain(error, Some(id)));
        }
    }
    let store = dir.open_or_create().await?;
    let progress = Progress::new();
    let imported = store.import_user(file, progress.callback()).await;
    progress.end();
    let imported = finish(&store, imported.map_err(|error| explain(error, Some(id)))).await?;
    let manifest = imported.manifest;
    log_change("user import-archive", manifest.user.id);
    show(format, file, &manifest, &[])?;
    report!(
        "imported {} with {}",
        printable(manifest.user.email.as_str()),
        pluralize(manifest.files, "file")
    );
    report_left_out(&imported.left_out);
    fail_if_incomplete(imported.incomplete, "the user was imported")
}

fn show(
    format: Format<'_>,
    file: &Path,
    manifest: &UserManifest,
    more: &[(&'static str, serde_json::Value)],
) -> Result<(), Failure> {
    let mut fields = vec![
        ("file", json!(file.display().to_string())),
        ("store_id", json!(manifest.store_id.to_string())),
        ("exported_at", json!(manifest.exported_at)),
        ("id", json!(manifest.user.id)),
        ("email", json!(manifest.user.email)),
        ("files", json!(manifest.files)),
        ("bytes", json!(manifest.bytes)),
        ("left_out", json!(manifest.left_out)),
    ];
    fields.extend_from_slice(more);
    output::record(format, &fields)
}
