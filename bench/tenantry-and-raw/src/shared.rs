//! What most write by hand: a pool with a connection for each of the callers and `BEGIN IMMEDIATE`,
//! or one connection behind a mutex.

use std::sync::{Mutex, MutexGuard};

use bench_protocol::{Caller, Job};
use tenantry::sqlite::rusqlite::{self, Connection, Result, TransactionBehavior};

use crate::raw;

struct Pool(Mutex<Vec<Connection>>);

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().expect("not poisoned")
    }

    fn with<T>(&self, f: impl FnOnce(&mut Connection) -> Result<T>) -> T {
        // There are as many connections as callers.
        let mut conn = self.idle().pop().expect("a connection");
        let answer = f(&mut conn).expect("done");
        self.idle().push(conn);
        answer
    }

    fn write<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> T {
        self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let answer = f(&tx)?;
            tx.commit()?;
            Ok(answer)
        })
    }
}

pub(crate) fn run(job: &Job) {
    let callers = match job.peer.as_str() {
        "pool" => {
            let pool = Pool(Mutex::new((0..job.callers).map(|_| raw::open(job)).collect()));
            match job.workload.as_str() {
                "create" => {
                    each(job, |caller| pool.write(|conn| raw::insert(conn, caller.new_user())))
                }
                "sign-in" => {
                    each(job, |caller| drop(pool.write(|conn| raw::sign_in(conn, caller.pick()))))
                }
                workload => panic!("no such workload: {workload}"),
            }
        }
        _ => {
            let conn = Mutex::new(raw::open(job));
            let lock = || conn.lock().expect("not poisoned");
            match job.workload.as_str() {
                // One statement is a transaction by itself.
                "create" => {
                    each(job, |caller| raw::insert(&lock(), caller.new_user()).expect("created"))
                }
                "sign-in" => each(job, |caller| {
                    drop(raw::sign_in(&lock(), caller.pick()).expect("signed in"))
                }),
                workload => panic!("no such workload: {workload}"),
            }
        }
    };
    job.report(callers, 1, rusqlite::version(), "");
}

fn each(job: &Job, work: impl Fn(&mut Caller) + Sync) -> Vec<Caller> {
    job.threads(|| |caller| work(caller))
}
