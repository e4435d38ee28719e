//! Random sequences of operations, with a crash at a random point now and then.

use std::hash::{BuildHasher, Hasher, RandomState};

use tenantry_testkit::random::Random;
use tenantry_testkit::share::share;
use tenantry_testkit::way::Way;

use crate::child::{Crash, Orders};
use crate::scenarios::Judge;
use crate::world::{Model, Op, Place};

/// How many stores, and how many processes on each.
const STORES: (u64, u64) = (12, 300);
const PROCESSES: u64 = 12;
/// How many operations a process gets to do at most, and how many points it passes at about the
/// most.
const OPS_MAX: u64 = 8;
const POINTS: u64 = 60;
const POINTS_OF_COPIES: u64 = 180;
const OPENING_POINTS: u64 = 12;

/// What was given out, so that nothing of it is given out twice.
#[derive(Default)]
struct Given {
    users: u8,
    paths: u64,
    files: u64,
}

impl Given {
    fn user(&mut self) -> u8 {
        self.users += 1;
        self.users - 1
    }

    fn path(&mut self) -> String {
        self.paths += 1;
        format!("customers/c{}/{}", self.paths % 3, self.paths)
    }

    fn file(&mut self) -> String {
        self.files += 1;
        ["", "a/", "a/b/", "c/"][self.files as usize % 4].to_owned() + &self.files.to_string()
    }
}

/// The next operation, which may well be refused; with what it takes.
fn choose(random: &mut Random, given: &mut Given, model: &Model) -> Vec<Op> {
    // Few, so that they are taken now and then.
    let email = random.below(12) as u8;
    let user = if given.users == 0 { 0 } else { random.below(given.users.into()) as u8 };
    let person = model.world.people.get(&user);
    let is_there = person.is_some_and(|person| !person.is_trashed);
    match random.below(20) {
        0..4 => {
            let path = random.is_one_in(2).then(|| given.path());
            vec![Op::Create { user: given.user(), email, path }]
        }
        4..6 => vec![Op::Open { user }],
        6..10 if is_there => vec![Op::Open { user }, Op::Write { user, file: given.file() }],
        6..12 => vec![Op::Delete { user }],
        12 => vec![Op::DeleteWithin { user }],
        13..15 => vec![Op::Restore { user, email: random.is_one_in(2).then_some(email) }],
        15 => vec![Op::Purge { user }],
        16 if random.is_one_in(3) => vec![Op::PurgeAll],
        16..18 => {
            let path = given.path();
            let place = Op::Place { path: format!("storage/{path}") };
            let adopt = match random.is_one_in(3) {
                true => Op::CreateOn { user: given.user(), email, path },
                false => Op::Adopt { user, path },
            };
            vec![place, adopt]
        }
        18 => vec![Op::Update { user, email }],
        _ => vec![Op::Check],
    }
}

#[test]
fn random_operations_with_crashes_do_what_the_model_does() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed =
        number("TENANTRY_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let stores = share(STORES.0, STORES.1);
    println!("to repeat it: TENANTRY_SEED={seed}");
    for store in 0..stores {
        let mut random = Random::new(seed.wrapping_add(store));
        let (place, mut model, mut given) = (Place::new(), Model::default(), Given::default());
        for _ in 0..PROCESSES {
            let mut ops = Vec::new();
            let mut expected = model.clone();
            while ops.is_empty() || !random.is_one_in(OPS_MAX) {
                let more = choose(&mut random, &mut given, &expected);
                for op in &more {
                    let _ = expected.apply(op);
                }
                ops.extend(more);
            }
            // Each process finds what one on another way has left.
            let way = *random.one_of(&Way::ALL);
            let points = if way == Way::Copied { POINTS_OF_COPIES } else { POINTS };
            let crash = if random.is_one_in(4) {
                Crash::Never
            } else {
                Crash::At(1 + random.below(points))
            };
            println!("{way:?}, {crash:?} in {ops:?}");
            let ran =
                Orders { ops: ops.clone(), crash, way, ..Orders::default() }.run(&place.data());
            println!(
                "did {:?}, crashed at {:?}",
                ran.did,
                ran.points.last().filter(|_| ran.has_crashed)
            );
            while ran.has_crashed && random.is_one_in(2) {
                let crash = Crash::At(1 + random.below(OPENING_POINTS));
                let way = *random.one_of(&Way::ALL);
                let opening = Orders { crash, is_opening_armed: true, way, ..Orders::default() }
                    .run(&place.data());
                println!(
                    "opening, {way:?}, crashed at {:?}",
                    opening.points.last().filter(|_| opening.has_crashed)
                );
            }
            let judge = Judge::new(model, &ops);
            let happened = judge.happened(&ran, &place.data());
            assert!(ran.has_crashed || happened == ops.len());
            model = judge.states[happened].clone();
        }
    }
}
