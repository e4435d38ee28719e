//! `tenantry check`.

use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use tenantry::{Checking, Finding, RepairOptions, Repaired, Report, check_with_progress, repair_with_progress};
use tenantry_exchange::printable;

use crate::args::Check;
use crate::failure::{Exit, Failure};
use crate::output::{self, Columns, Format, RecordList, counted};
use crate::place::Place;
use crate::stdio::tell;

/// How often the progress is drawn, whether or not there is any.
const TICK: Duration = Duration::from_millis(100);
/// Every how many users or entries the progress says how many there were.
const SHOWN_EVERY: u64 = 500;

const FIELDS: &[&str] = &["kind", "user", "path", "detail", "repair"];
pub(crate) const FINDINGS: Columns = Columns { name: "findings", fields: FIELDS, in_table: FIELDS };

#[derive(Serialize)]
struct FindingRow<'r> {
    #[serde(flatten)]
    finding: &'r Finding,
    /// What a repair does about it.
    repair: Option<&'static str>,
}

pub(crate) async fn run(place: &Place, format: Format<'_>, args: Check) -> Result<(), Failure> {
    if !args.repair {
        let progress = Progress::new();
        let report = check_with_progress(place.data_dir(), progress.callback()).await;
        progress.0.finish_and_clear();
        let report = report.map_err(|error| place.explain(error))?;
        print(format, &report)?;
        let repairable = report.findings.iter().filter(|finding| finding.kind.repair().is_some()).count();
        let advice = match repairable {
            0 => "none of them can be repaired: docs/command.md says what a person can do".to_owned(),
            _ => format!("`tenantry check --repair` can repair {repairable} of them"),
        };
        return conclude(&report, &advice);
    }
    let options = RepairOptions {
        dry_run: args.dry_run,
        even_if_many: args.even_if_many,
        allow_network_fs: place.allow_network_fs(),
    };
    let progress = Progress::new();
    let repaired = repair_with_progress(place.data_dir(), options, progress.callback()).await;
    progress.0.finish_and_clear();
    let repaired = repaired.map_err(|error| place.explain(error))?;
    let Repaired { before, refusal, failures, after, .. } = repaired;
    let Some(after) = after else {
        print(format, &before)?;
        if let Some(refusal) = refusal {
            return Err(Failure::from(refusal).saying("this was a dry run"));
        }
        return conclude(&before, "nothing was changed: the last column is what a repair would do");
    };
    print(format, &after)?;
    for (finding, error) in &failures {
        let user = finding.user.map(|user| format!(" of {user}")).unwrap_or_default();
        let path = finding.path.as_deref().map(|path| format!(" at {}", printable(&path.to_string_lossy())));
        tell!("not repaired: {}{user}{}: {error}", finding.kind, path.unwrap_or_default());
    }
    let gone = before.findings.iter().filter(|finding| !after.findings.contains(finding)).count();
    tell!("repaired {}", counted(gone as u64, "finding"));
    conclude(&after, "what is left takes a person")
}

struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let bar = output::progress(None, "{spinner} {msg}");
        // SQLite's own check says nothing while it lasts.
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    fn callback(&self) -> impl Fn(Checking) + Clone + Send + 'static {
        let bar = self.0.clone();
        move |checking| {
            let (count, what) = match checking {
                Checking::Users(count) => (count, "users"),
                Checking::Entries(count) => (count, "directories and what else is in storage/ and trash/"),
                _ => return bar.set_message("the database"),
            };
            // Not for each of them: a message is a text of its own.
            if count % SHOWN_EVERY == 1 {
                bar.set_message(format!("{count} {what}"));
            }
        }
    }
}

fn print(format: Format<'_>, report: &Report) -> Result<(), Failure> {
    let rows: Vec<_> =
        report.findings.iter().map(|finding| FindingRow { finding, repair: finding.kind.repair() }).collect();
    let mut list = RecordList::new(format, &FINDINGS)?;
    list.add(&rows)?;
    list.finish(&[
        ("users", report.users.into()),
        ("trashed", report.trashed.into()),
        ("directories", report.directories.into()),
        ("orphaned", report.orphaned.into()),
    ])
}

/// Ends well only if all is well.
fn conclude(report: &Report, advice: &str) -> Result<(), Failure> {
    let looked_at = format!(
        "{}, {} in the trash, {}",
        counted(report.users, "user"),
        report.trashed,
        if report.directories == 1 { "1 directory".to_owned() } else { format!("{} directories", report.directories) }
    );
    if report.findings.is_empty() {
        tell!("all is well: {looked_at}");
        return Ok(());
    }
    let found = counted(report.findings.len() as u64, "finding");
    Err(Failure::new(Exit::Failure, format!("{found} ({looked_at}); {advice}")))
}
