//! `tenantry check`.

use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use tenantry::{
    CheckReport, Finding, RepairOptions, RepairReport, check_with_progress, repair_with_progress,
};
use tenantry_exchange::printable;

use crate::args::Check;
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::{Columns, Format, RecordList, pluralize};
use crate::progress_bar;
use crate::stdio::report;

/// How often the progress is drawn, even if nothing has changed.
const TICK: Duration = Duration::from_millis(100);
/// After how many users or entries the progress is updated.
const SHOWN_EVERY: u64 = 500;

const FIELDS: &[&str] = &["kind", "user", "path", "detail", "repair"];
pub(crate) const FINDINGS: Columns = Columns { name: "findings", fields: FIELDS, in_table: FIELDS };

#[derive(Serialize)]
struct FindingRow<'r> {
    #[serde(flatten)]
    finding: &'r Finding,
    /// The action of a repair, if there is one.
    repair: Option<&'static str>,
}

pub(crate) async fn run(dir: &DataDir, format: Format<'_>, args: Check) -> Result<(), Failure> {
    if !args.repair {
        let progress = Progress::new();
        let report = check_with_progress(dir.data_dir(), progress.callback()).await;
        progress.0.finish_and_clear();
        let report = report.map_err(|error| dir.explain(error))?;
        print(format, &report)?;
        let repairable =
            report.findings.iter().filter(|finding| finding.kind.repair().is_some()).count();
        let advice = match repairable {
            0 => {
                "none of them can be repaired: docs/command.md lists the manual remedies".to_owned()
            }
            _ => format!("`tenantry check --repair` can repair {repairable} of them"),
        };
        return conclude(&report, &advice);
    }
    let options = RepairOptions {
        dry_run: args.dry_run,
        even_if_many: args.even_if_many,
        allow_network_fs: dir.allow_network_fs(),
    };
    let progress = Progress::new();
    let repaired = repair_with_progress(dir.data_dir(), options, progress.callback()).await;
    progress.0.finish_and_clear();
    let repaired = repaired.map_err(|error| dir.explain(error))?;
    let RepairReport { before, refusal, failures, after, .. } = repaired;
    let Some(after) = after else {
        print(format, &before)?;
        if let Some(refusal) = refusal {
            return Err(Failure::from(refusal).with_outcome("this was a dry run"));
        }
        return conclude(
            &before,
            "nothing was changed: the last column shows the actions of a repair",
        );
    };
    print(format, &after)?;
    for (finding, error) in &failures {
        let user = finding.user.map(|user| format!(" of {user}")).unwrap_or_default();
        let path = finding
            .path
            .as_deref()
            .map(|path| format!(" at {}", printable(&path.to_string_lossy())));
        report!("not repaired: {}{user}{}: {error}", finding.kind, path.unwrap_or_default());
    }
    let gone = before.findings.iter().filter(|finding| !after.findings.contains(finding)).count();
    report!("repaired {}", pluralize(gone as u64, "finding"));
    conclude(&after, "the rest has to be resolved manually")
}

struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let bar = progress_bar::start(None, "{spinner} {msg}");
        // SQLite's own check reports no progress.
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    fn callback(&self) -> impl Fn(tenantry::Progress) + Send + 'static {
        let bar = self.0.clone();
        move |progress: tenantry::Progress| {
            let (count, what) = match (progress.users, progress.entries) {
                (0, 0) => return bar.set_message("the database"),
                (users, 0) => (users, "users"),
                (_, entries) => (entries, "entries of storage/ and trash/"),
            };
            // Not for each entry, since a message allocates a text.
            if count % SHOWN_EVERY == 1 {
                bar.set_message(format!("{count} {what}"));
            }
        }
    }
}

fn print(format: Format<'_>, report: &CheckReport) -> Result<(), Failure> {
    let rows: Vec<_> = report
        .findings
        .iter()
        .map(|finding| FindingRow { finding, repair: finding.kind.repair() })
        .collect();
    let mut list = RecordList::new(format, &FINDINGS)?;
    list.add(&rows)?;
    list.finish(&[
        ("users", report.users.into()),
        ("trashed", report.trashed.into()),
        ("directories", report.directories.into()),
        ("orphaned", report.orphaned.into()),
    ])
}

/// Succeeds only without findings.
fn conclude(report: &CheckReport, advice: &str) -> Result<(), Failure> {
    let scope = format!(
        "{}, {} in the trash, {}",
        pluralize(report.users, "user"),
        report.trashed,
        if report.directories == 1 {
            "1 directory".to_owned()
        } else {
            format!("{} directories", report.directories)
        }
    );
    if report.findings.is_empty() {
        report!("all is well: {scope}");
        return Ok(());
    }
    let found = pluralize(report.findings.len() as u64, "finding");
    Err(Failure::new(Exit::Failure, format!("{found} ({scope}); {advice}")))
}
