//! `tenantry check`.

use serde::Serialize;
use tenantry::{Finding, RepairOptions, Repaired, Report};

use crate::args::Check;
use crate::failure::{Exit, Failure};
use crate::output::{Columns, Format, RecordList, counted};
use crate::place::Place;
use crate::rows::printable;

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
        let report = tenantry::check(place.data_dir()).await.map_err(|error| place.explain(error))?;
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
    let repaired = tenantry::repair(place.data_dir(), options).await.map_err(|error| place.explain(error))?;
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
        anstream::eprintln!("not repaired: {}{user}{}: {error}", finding.kind, path.unwrap_or_default());
    }
    let gone = before.findings.iter().filter(|finding| !after.findings.contains(finding)).count();
    anstream::eprintln!("repaired {}", counted(gone as u64, "finding"));
    conclude(&after, "what is left takes a person")
}

fn print(format: Format<'_>, report: &Report) -> Result<(), Failure> {
    let rows: Vec<_> =
        report.findings.iter().map(|finding| FindingRow { finding, repair: finding.kind.repair() }).collect();
    let mut list = RecordList::new(format, &FINDINGS);
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
        anstream::eprintln!("all is well: {looked_at}");
        return Ok(());
    }
    let found = counted(report.findings.len() as u64, "finding");
    Err(Failure::new(Exit::Failure, format!("{found} ({looked_at}); {advice}")))
}
