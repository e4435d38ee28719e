//! The inner pieces, by themselves: `cargo bench -p tenantry`. What a whole operation takes, and
//! what others take for it, is the affair of `bench/`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that can't begin has nothing to measure, and the entrance is made by a macro"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use futures_lite::future::block_on;
use tenantry::{Email, ListQuery, NewUser, StoragePath, Store};

/// Addresses of the kinds that take different ways through the checks.
const ADDRESSES: [(&str, &str); 4] = [
    ("plain", "theodor.1rt2a4@example.com"),
    ("capital letters", "Theodor.1RT2A4@Example.COM"),
    ("beyond ASCII", "théodor.1rt2a4@exämple.com"),
    (
        "longest",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.example.com",
    ),
];

fn addresses(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse an address and make its key");
    for (name, address) in ADDRESSES {
        group.bench_function(name, |b| b.iter(|| black_box(address).parse::<Email>().unwrap()));
    }
}

/// A read of a store that is in the page cache as a whole: what is left is the look-up and the
/// decoding of the row.
fn rows(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let store = block_on(Store::open(dir.path())).unwrap();
    let users = (0..1_000)
        .map(|number| NewUser::new(format!("u{number}@example.com").parse().unwrap()))
        .collect();
    let created = block_on(store.create_many(users)).unwrap();
    let ada = created[500].as_ref().unwrap();
    c.bench_function("get by id", |b| b.iter(|| block_on(store.get(black_box(ada.id))).unwrap()));
    c.bench_function("get by email", |b| {
        b.iter(|| block_on(store.get_by_email(black_box(&ada.email))).unwrap())
    });
    for limit in [1, 1_000] {
        let query = ListQuery { limit, ..ListQuery::default() };
        c.bench_function(&format!("decode a page of {limit}"), |b| {
            b.iter(|| block_on(store.list(&query)).unwrap())
        });
    }
    c.bench_function("derive a storage path", |b| {
        b.iter(|| StoragePath::derived(black_box(ada.id)))
    });
    block_on(store.close()).unwrap();
}

criterion_group!(pieces, addresses, rows);
criterion_main!(pieces);
