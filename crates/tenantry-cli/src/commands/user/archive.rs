//! `tenantry user export-archive` and `import-archive`.

use std::path::Path;

use serde_json::json;
use tenantry::{ErrorKind, UserId, UserManifest, export_user, import_user, read_user_manifest};
use tenantry_exchange::printable;

use crate::commands::archive_report::{Progress, explain, name_left_out, refuse_incomplete};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, counted};
use crate::place::Place;
use crate::session::{did, finish};
use crate::stdio::{self, tell};
use crate::target::check_archive;
use crate::who::Who;

pub(crate) async fn export(place: &Place, format: Format<'_>, who: &Who, file: &Path) -> Result<(), Failure> {
    check_archive(file, place)?;
    let store = place.open().await?;
    let id = match who {
        // Whether they are in the trash is told by the export.
        Who::Id(id) => *id,
        Who::Email(_) => match store.read(|tx| who.find(tx)).await {
            Ok(user) => user.id,
            Err(failure) => return finish(&store, Err(failure)).await,
        },
    };
    let progress = Progress::new();
    let exported = export_user(&store, id, file, progress.callback()).await;
    progress.end();
    let exported = finish(&store, exported.map_err(|error| explain(error, file, "nothing was exported"))).await?;
    did("user export-archive", id);
    show(format, file, &exported.manifest, &[("archive_bytes", json!(exported.archive_bytes))])?;
    name_left_out(&exported.left_out);
    if exported.incomplete == 0 {
        return Ok(());
    }
    let message = format!(
        "the archive is there, but {} of the user's files or directories could not be taken",
        exported.incomplete
    );
    Err(Failure::new(Exit::Failure, message))
}

pub(crate) async fn import(place: &Place, format: Format<'_>, file: &Path) -> Result<(), Failure> {
    stdio::refuse_stream(file, "the archive of a user is")?;
    let explain = |error: tenantry::Error, who: Option<UserId>| match error.kind() {
        ErrorKind::Unfinished | ErrorKind::OutcomeUnknown => Failure::from(error),
        ErrorKind::EmailTaken if error.taken_by() == who => {
            Failure::new(Exit::Conflict, format!("{}: the user is there already; nothing was imported", file.display()))
        }
        ErrorKind::EmailTaken => {
            let by = error.taken_by().map(|other| format!(": {other}")).unwrap_or_default();
            let message = format!("{}: another user has the email address{by}; nothing was imported", file.display());
            Failure::new(Exit::Conflict, message)
        }
        _ => explain(error, file, "nothing was imported"),
    };
    // So that what is no such archive never creates a store.
    let who = read_user_manifest(file).await.map_err(|error| explain(error, None))?.user.id;
    if let Some(scratch) = place.scratch().await? {
        // What is damaged further down makes no store either. That there is no room to try it says
        // nothing.
        let progress = Progress::new();
        let tried = import_user(&scratch, file, progress.callback()).await;
        progress.end();
        scratch.remove().await.map_err(|failure| failure.saying("nothing was imported"))?;
        if let Err(error) = tried
            && (matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible)
                || Exit::of(error.kind()) == Exit::Invalid)
        {
            return Err(explain(error, Some(who)));
        }
    }
    let store = place.open_or_create().await?;
    let progress = Progress::new();
    let imported = import_user(&store, file, progress.callback()).await;
    progress.end();
    let imported = finish(&store, imported.map_err(|error| explain(error, Some(who)))).await?;
    let manifest = imported.manifest;
    did("user import-archive", manifest.user.id);
    show(format, file, &manifest, &[])?;
    tell!("imported {} with {}", printable(manifest.user.email.as_str()), counted(manifest.files, "file"));
    name_left_out(&imported.left_out);
    refuse_incomplete(imported.incomplete, "the user was imported")
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
