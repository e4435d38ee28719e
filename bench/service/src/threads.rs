//! The priority of the threads that search, which Linux has for each thread.

use std::fs;

use rustix::process::{Pid, getpriority_process, setpriority_process};

fn searches() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap());
    let is_search = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|name| name.trim_end() == "tenantry-search")
    };
    let id = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    let found: Vec<Pid> = tasks.filter(is_search).filter_map(id).collect();
    assert!(!found.is_empty(), "no thread searches");
    found
}

pub fn nice_of_searches() -> i32 {
    getpriority_process(Some(searches()[0])).unwrap()
}

/// To make a thread less nice again takes a right that root has.
pub fn renice_searches(nice: i32) {
    for thread in searches() {
        setpriority_process(Some(thread), nice).unwrap();
    }
}
