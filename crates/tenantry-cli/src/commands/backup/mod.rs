//! `tenantry backup …`.

pub(super) mod one_user;
mod rotation;

use std::path::{Path, PathBuf};

use serde_json::json;
use tenantry::{BackupManifest, BackupOptions, ErrorKind, restore_backup, verify_backup};
use tenantry_exchange::printable;

use crate::commands::archive_report::{Progress, explain, fail_if_incomplete, report_left_out};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, pluralize};
use crate::session::finish;
use crate::stdio::{self, report};
use crate::target::check_archive;

pub(crate) async fn create(
    dir: &DataDir,
    format: Format<'_>,
    file: Option<PathBuf>,
    database_only: bool,
    keep: Option<u32>,
) -> Result<(), Failure> {
    if keep.is_none() && file.as_deref().is_some_and(Path::is_dir) {
        return Err(Failure::new(
            Exit::Usage,
            "FILE is a directory: --keep N writes a backup into it",
        ));
    }
    let file = match (file, keep) {
        (Some(parent), Some(_)) => parent.join(rotation::name_for_now()),
        (Some(file), None) => file,
        (None, _) => rotation::name_for_now().into(),
    };
    check_archive(&file, dir)?;
    let store = dir.open().await?;
    let progress = Progress::new();
    let created =
        store.create_backup(&file, BackupOptions { database_only }, progress.callback()).await;
    progress.end();
    let backup =
        finish(&store, created.map_err(|error| explain(error, &file, "no backup was made")))
            .await?;
    if let (Some(keep), Some(parent), Some(name), 0) =
        (keep, file.parent(), file.file_name(), backup.incomplete)
    {
        rotation::rotate(parent, keep, &name.to_string_lossy())?;
    }
    show(format, &file, &backup.manifest, &[("archive_bytes", json!(backup.archive_bytes))])?;
    report_left_out(&backup.left_out);
    if backup.incomplete == 0 {
        return Ok(());
    }
    let message = format!(
        "the backup was written, but {} of the users' files or directories could not be included{}",
        backup.incomplete,
        if keep.is_some() { "; no older backup was removed" } else { "" }
    );
    Err(Failure::new(Exit::Failure, message))
}

pub(crate) async fn verify(format: Format<'_>, file: &Path) -> Result<(), Failure> {
    let file = stdio::input(file);
    let progress = Progress::new();
    let verified = verify_backup(file, progress.callback()).await;
    progress.end();
    let verified = verified.map_err(|error| {
        // A backup that couldn't be read isn't proved to be a bad one.
        let is_bad = matches!(
            error.kind(),
            ErrorKind::Corrupt | ErrorKind::Incompatible | ErrorKind::NotFound
        );
        explain(
            error,
            file,
            if is_bad { "use another backup" } else { "the backup was not verified" },
        )
    })?;
    show(format, file, &verified.manifest, &[])?;
    for finding in &verified.findings {
        report!("{}: {}", finding.kind, printable(&finding.detail));
    }
    if !verified.findings.is_empty() {
        let findings = pluralize(verified.findings.len() as u64, "finding");
        return Err(Failure::new(
            Exit::Failure,
            format!("the archive is intact, but its database has {findings}"),
        ));
    }
    if verified.missing_directories > 0 && !verified.manifest.database_only {
        let missing = pluralize(verified.missing_directories, "user");
        return Err(Failure::new(
            Exit::Failure,
            format!("the archive is intact, but lacks the directories of {missing}"),
        ));
    }
    report!("all is well: {}", pluralize(verified.manifest.files, "file"));
    Ok(())
}

pub(crate) async fn restore(format: Format<'_>, file: &Path, into: &Path) -> Result<(), Failure> {
    let file = stdio::input(file);
    let progress = Progress::new();
    let restored = restore_backup(file, into, progress.callback()).await;
    progress.end();
    let restored = restored.map_err(|error| explain(error, file, "nothing was restored"))?;
    show(format, file, &restored.manifest, &[])?;
    report_left_out(&restored.left_out);
    if restored.report.findings.is_empty() {
        fail_if_incomplete(restored.incomplete, &format!("restored into {}", into.display()))?;
        report!("restored into {}", into.display());
        return Ok(());
    }
    let findings = pluralize(restored.report.findings.len() as u64, "finding");
    let message = format!(
        "restored into {}, but a check reports {findings}: see `tenantry check --data-dir {}`",
        into.display(),
        into.display()
    );
    Err(Failure::new(Exit::Failure, message))
}

fn show(
    format: Format<'_>,
    file: &Path,
    manifest: &BackupManifest,
    more: &[(&'static str, serde_json::Value)],
) -> Result<(), Failure> {
    let mut fields = vec![
        ("file", json!(file.display().to_string())),
        ("store_id", json!(manifest.store_id.to_string())),
        ("schema_version", json!(manifest.schema_version)),
        ("created_at", json!(manifest.created_at)),
        ("database_only", json!(manifest.database_only)),
        ("users", json!(manifest.users)),
        ("trashed", json!(manifest.trashed)),
        ("files", json!(manifest.files)),
        ("bytes", json!(manifest.bytes)),
        ("left_out", json!(manifest.left_out)),
    ];
    fields.extend_from_slice(more);
    output::record(format, &fields)
}
