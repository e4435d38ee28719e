//! The corpus of the fuzz targets as files, which is what cargo-fuzz takes, and from files.
//!
//! ```text
//! # Each target in a directory of its own:
//! cargo run -p tenantry-testkit --example corpus unpack DIRECTORY
//! # An input that was found:
//! cargo run -p tenantry-testkit --example corpus add TARGET NAME FILE
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a tool of the tests, which ends with what was wrong"
)]

use std::fs;
use std::path::Path;

use tenantry_testkit::corpus::{self, Input, TARGETS};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["unpack", directory] => {
            for target in TARGETS {
                let directory = Path::new(directory).join(target);
                fs::create_dir_all(&directory).unwrap();
                for Input { name, octets } in corpus::read(target) {
                    fs::write(directory.join(name), octets).unwrap();
                }
            }
        }
        ["add", target, name, file] => {
            let mut inputs = corpus::read(target);
            assert!(inputs.iter().all(|input| input.name != *name), "there is a {name} already");
            inputs.push(Input { name: (*name).to_owned(), octets: fs::read(file).unwrap() });
            corpus::write(target, inputs);
        }
        _ => panic!("corpus unpack DIRECTORY | corpus add TARGET NAME FILE"),
    }
}
