//! The order of an upload's system calls.

use std::process::Command;

use axum::http::StatusCode;

use crate::files::Ada;

/// Traced by the test below; by itself it is an upload like others.
#[tokio::test]
async fn an_upload_and_its_replacement() {
    let ada = Ada::new().await;
    assert_eq!(ada.put("made/new.txt", "hello").await.status, StatusCode::CREATED);
    assert_eq!(ada.put("made/new.txt", "hallo").await.status, StatusCode::NO_CONTENT);
}

/// Returns what is wrong with the order of the calls that give `new.txt` its content and its names.
fn fault(trace: &str) -> Option<&'static str> {
    let calls: Vec<&str> = trace.lines().filter(|line| !line.contains(" = -1 ")).collect();
    let find = |from: usize, is: &dyn Fn(&str) -> bool| {
        calls.iter().skip(from).position(|call| is(call)).map(|position| from + position)
    };
    let is_content = |call: &str| call.contains("/#") || call.contains(".tenantry-upload-");
    let writes = |call: &str| call.contains("write(") && is_content(call);
    let syncs = |call: &str| call.contains("fsync(") && is_content(call);
    let syncs_dir = |call: &str| call.contains("fsync(") && call.contains("/made>");
    let names = |call: &str| {
        (call.contains("linkat(") || call.contains("renameat")) && call.contains("\"new.txt\"")
    };
    let mut from = 0;
    for _ in ["new", "replaced"] {
        let Some(written) = find(from, &writes) else { return Some("nothing is written") };
        let Some(named) = find(written, &names) else {
            return Some("the file never gets its name");
        };
        // The hidden name comes before, and needs the sync as well.
        let linked = find(written, &|call| call.contains("linkat(")).unwrap_or(named).min(named);
        if find(written, &syncs).is_none_or(|synced| synced >= linked) {
            return Some("the file has a name before its content is on the disk");
        }
        let Some(synced) = find(named, &syncs_dir) else {
            return Some("the name isn't synced to the disk");
        };
        from = synced;
    }
    if !calls.iter().any(|call| call.contains("mkdirat(") && call.contains("\"made\"")) {
        return Some("the directory isn't made");
    }
    None
}

/// A power cut after the response could leave a file that was empty, or none.
#[test]
fn an_upload_is_on_the_disk_before_its_name_and_its_name_before_the_response() {
    let traces = tempfile::tempdir().unwrap();
    let trace = traces.path().join("trace");
    let mut strace = Command::new("strace");
    // No content, which could look like a path.
    strace.args([
        "-f",
        "-qq",
        "-y",
        "-s",
        "64",
        "-e",
        "trace=write,pwrite64,fsync,fdatasync,linkat,renameat,renameat2,mkdirat",
    ]);
    strace.arg("-o").arg(&trace).arg(std::env::current_exe().unwrap());
    let output =
        match strace.args(["--exact", "files_order::an_upload_and_its_replacement"]).output() {
            Ok(output) => output,
            Err(error) => {
                let text =
                    format!("SKIPPED: the order of system calls is seen by strace: {error}\n");
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
                return;
            }
        };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let trace = std::fs::read_to_string(trace).unwrap();
    assert_eq!(fault(&trace), None, "{trace}");
}
