//! Scenarios, in each of which the child aborts at each failpoint in turn.

use std::collections::BTreeSet;
use std::path::Path;

use tenantry_testkit::way::Way;

use crate::child::{Crash, Orders, Ran};
use crate::points::{POINTS, fits};
use crate::world::{Model, Op, Place, derived, find, find_sound, outcome, stages};

/// More points than any scenario passes.
const POINTS_MAX: u64 = 1_000;

pub(crate) const ADA: u8 = 0;
pub(crate) const BOB: u8 = 1;
pub(crate) const CYD: u8 = 2;
const CHOSEN: &str = "customers/x/ada";

#[derive(Default)]
struct Scenario {
    /// What is done before.
    setup: Vec<Op>,
    /// What else, for which operations aren't enough.
    setup_more: Option<fn(&Place, &mut Model)>,
    /// What is done in the child, and how.
    orders: Orders,
    /// Whether it is the opening after the crash that crashes at every point, for every point of
    /// the operations.
    is_of_recovery: bool,
}

/// How the crashes of a scenario are judged.
pub(crate) struct Judge {
    ops: Vec<Op>,
    /// What is there after so many of the operations.
    pub(crate) states: Vec<Model>,
    outcomes: Vec<String>,
}

impl Judge {
    pub(crate) fn new(mut model: Model, ops: &[Op]) -> Self {
        let mut judge =
            Self { ops: ops.to_vec(), states: vec![model.clone()], outcomes: Vec::new() };
        for op in ops {
            judge.outcomes.push(outcome(model.apply(op)));
            judge.states.push(model.clone());
        }
        judge
    }

    /// Opens what the child has left, and returns how many of the operations have happened: those
    /// that have returned, and perhaps the one after.
    pub(crate) fn happened(&self, ran: &Ran, data: &Path) -> usize {
        let answered = ran.did.len();
        assert_eq!(ran.did, self.outcomes[..answered]);
        let found = find_sound(data, &[]);
        let happened = (answered..=answered + 1)
            .find(|so_many| self.states.get(*so_many).is_some_and(|model| model.world == found));
        let happened = happened.unwrap_or_else(|| {
            let (before, after) = (&self.states[answered], self.states.get(answered + 1));
            panic!(
                "neither as before nor as after: {found:#?}\nbefore: {before:#?}\nafter: {after:#?}"
            )
        });
        self.states[happened].check_erased(data);
        happened
    }

    /// Judges what the child has left, and goes on to the end.
    fn judge(&self, ran: &Ran, data: &Path) {
        let last = self.states.last().unwrap();
        if self.ops.iter().any(|op| matches!(op, Op::Repair)) {
            // What it had not come to is still there. Nothing is lost meanwhile, and another repair
            // ends it.
            let found = find(data, &[]).world;
            assert_eq!(found.contents(), last.world.contents());
            find(data, &self.ops);
            assert_eq!(find_sound(data, &[]), last.world);
            return;
        }
        let happened = self.happened(ran, data);
        if happened < self.ops.len() {
            assert_eq!(
                find_sound(data, &self.ops[happened..]),
                last.world,
                "it can't be gone on with"
            );
            last.check_erased(data);
        }
        assert_eq!(stages(data), [""; 0], "what an import has left");
    }
}

/// Aborts a child at each point of a scenario in turn, until one comes to the end.
fn crash_everywhere(name: &str, scenario: Scenario) {
    let place = Place::new();
    let mut model = Model::default();
    place.prepare(&mut model, &scenario.setup);
    if let Some(more) = scenario.setup_more {
        more(&place, &mut model);
    }
    let judge = Judge::new(model, &scenario.orders.ops);
    let mut passed = BTreeSet::new();
    for at in 1..POINTS_MAX {
        let place = place.copy();
        let ran = Orders { crash: Crash::At(at), ..scenario.orders.clone() }.run(&place.data());
        println!("crash {at} at {:?}", ran.points.last());
        if scenario.is_of_recovery && ran.has_crashed {
            crash_in_recovery(&place, &judge, &ran, scenario.orders.way, &mut passed);
        } else {
            if !scenario.is_of_recovery {
                passed.extend(ran.points.iter().cloned());
            }
            judge.judge(&ran, &place.data());
        }
        if !ran.has_crashed {
            assert_eq!(ran.did, judge.outcomes);
            assert!(at > 1, "there is no point");
            let expected = POINTS
                .iter()
                .filter(|(_, scenarios)| scenarios.split(' ').any(|pattern| fits(name, pattern)));
            assert_eq!(
                passed,
                expected.map(|(point, _)| (*point).to_owned()).collect(),
                "see POINTS"
            );
            return;
        }
    }
    panic!("it doesn't come to an end");
}

/// Aborts the opening after a crash at each of its points in turn.
fn crash_in_recovery(
    place: &Place,
    judge: &Judge,
    ran: &Ran,
    way: Way,
    passed: &mut BTreeSet<String>,
) {
    for at in 1..POINTS_MAX {
        let place = place.copy();
        let opening =
            Orders { crash: Crash::At(at), is_opening_armed: true, way, ..Orders::default() };
        let reopened = opening.run(&place.data());
        println!("  then {at} at {:?}", reopened.points.last());
        passed.extend(reopened.points.iter().cloned());
        judge.judge(ran, &place.data());
        if !reopened.has_crashed {
            return;
        }
    }
    panic!("the opening doesn't come to an end");
}

/// A user with these files.
fn person(user: u8, path: Option<&str>, files: &[&str]) -> Vec<Op> {
    let mut ops =
        vec![Op::Create { user, email: user, path: path.map(str::to_owned) }, Op::Open { user }];
    ops.extend(files.iter().map(|file| Op::Write { user, file: (*file).to_owned() }));
    ops
}

pub(crate) fn nested(user: u8) -> Vec<Op> {
    person(user, None, &["a.txt", "b/c.txt", "b/d/e.txt"])
}

fn trashed(user: u8) -> Vec<Op> {
    [nested(user), vec![Op::Delete { user }]].concat()
}

/// What a purge meets of everything, also a name that it would take for what it moves.
fn tangled(user: u8) -> Vec<Op> {
    let files = ["a.txt", "b/c.txt", "b/d/e.txt", "b/d/f/g.txt", "b/h/i.txt", "moved-1/j.txt"];
    let complicate = Op::Complicate { user, dir: "b/d".to_owned() };
    [person(user, None, &files), vec![complicate, Op::Delete { user }]].concat()
}

/// A file with a second name, which the copies of a place that is prepared don't have.
fn linked(user: u8) -> Op {
    Op::Link { user, file: "a.txt".to_owned(), name: "b/other.txt".to_owned() }
}

fn place_chosen() -> Op {
    Op::Place { path: format!("storage/{CHOSEN}") }
}

fn adopt() -> Op {
    Op::Adopt { user: ADA, path: CHOSEN.to_owned() }
}

/// The same on another way.
pub(crate) fn on_way(way: Way, ops: impl Into<Vec<Op>>) -> Orders {
    Orders { way, ..to_do(ops) }
}

fn to_copy(ops: impl Into<Vec<Op>>) -> Orders {
    on_way(Way::Copied, ops)
}

pub(crate) fn to_do(ops: impl Into<Vec<Op>>) -> Orders {
    Orders { ops: ops.into(), ..Orders::default() }
}

/// Ada, who comes from another store.
fn import(path: Option<&str>, files: Option<&[&str]>) -> Op {
    let files = files.map(|files| files.iter().map(|file| (*file).to_owned()).collect());
    Op::Import { user: ADA, email: ADA, path: path.map(str::to_owned), files }
}

fn import_nested() -> Op {
    import(None, Some(&["a.txt", "b/c.txt", "b/d/e.txt"]))
}

pub(crate) fn import_chosen() -> Op {
    import(Some(CHOSEN), Some(&["a.txt"]))
}

/// Some of the files of [`nested`].
fn fewer(user: u8) -> Vec<Op> {
    person(user, None, &["b/c.txt", "own.txt"])
}

pub(crate) fn bring_back() -> Op {
    Op::BringBack { user: ADA, files: ["a.txt", "b/c.txt", "b/d/e.txt"].map(str::to_owned).into() }
}

/// An import crashes when all of its files are there, and so do not their users.
fn leave_a_stage(place: &Place, _: &mut Model) {
    place.put_archive(&import_nested());
    let crash = Crash::Point("import: sync the files".to_owned());
    let ran = Orders { crash, ..to_do([import_nested()]) }.run(&place.data());
    assert!(ran.has_crashed);
    assert_eq!(stages(&place.data()).len(), 1);
}

/// An adoption crashes before it removes the directory that the user had, and somebody still writes
/// into that.
fn write_into_what_is_discarded(place: &Place, model: &mut Model) {
    let crash = Crash::Point("adopt: remove the empty directory".to_owned());
    let ran = Orders { crash, ..to_do([adopt()]) }.run(&place.data());
    assert!(ran.has_crashed);
    model.apply(&adopt()).unwrap();
    std::fs::write(place.data().join(derived(ADA)).join("late.txt"), "late").unwrap();
    model
        .world
        .quarantine
        .insert(derived(ADA), [("late.txt".to_owned(), "late".to_owned())].into());
}

/// A file in `storage/` that belongs to no user.
fn put_an_orphaned_file(place: &Place, model: &mut Model) {
    let path = "storage/orphan.txt";
    std::fs::write(place.data().join(path), "orphan").unwrap();
    model.world.loose.insert(path.to_owned(), "orphan".to_owned());
    model.placed.insert(path.to_owned());
}

macro_rules! scenarios {
    ($($name:ident $test:ident $scenario:expr;)*) => {
        const SCENARIOS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $test() {
                crash_everywhere(stringify!($name), $scenario);
            }
        )*

        /// The same where neither `openat2` nor `RENAME_NOREPLACE` is known.
        mod in_steps {
            use super::*;

            $(
                #[test]
                fn $test() {
                    let mut scenario = $scenario;
                    // What is copied isn't moved in steps.
                    if scenario.orders.way == Way::AtOnce {
                        scenario.orders.way = Way::InSteps;
                        crash_everywhere(stringify!($name), scenario);
                    }
                }
            )*
        }
    };
}

scenarios! {
    open_first a_crash_in_the_first_opening_leaves_a_store_that_opens Scenario {
        orders: Orders { is_opening_armed: true, ..Orders::default() },
        ..Scenario::default()
    };
    upgrade a_crash_in_an_upgrade_leaves_a_store_of_the_old_version_or_the_new Scenario {
        setup_more: Some(|place, model| place.make_version_1(model)),
        orders: Orders { is_opening_armed: true, ..Orders::default() },
        ..Scenario::default()
    };
    make_derived a_crash_while_a_derived_path_is_made_leaves_a_directory_or_none Scenario {
        setup: person(BOB, None, &["a.txt"]),
        orders: to_do(nested(ADA)),
        ..Scenario::default()
    };
    make_chosen a_crash_while_a_chosen_path_is_made_leaves_a_directory_or_none Scenario {
        setup: person(BOB, Some("customers/bob"), &["a.txt"]),
        orders: to_do(person(ADA, Some(CHOSEN), &["a.txt"])),
        ..Scenario::default()
    };
    make_masked a_crash_while_the_umask_takes_away_rights_leaves_none_missing Scenario {
        setup: vec![Op::Create { user: ADA, email: ADA, path: Some(CHOSEN.to_owned()) }],
        orders: Orders { umask: Some(0o777), ..to_do([Op::Open { user: ADA }]) },
        ..Scenario::default()
    };
    delete a_crash_in_a_deletion_leaves_a_user_or_one_in_the_trash Scenario {
        setup: [nested(BOB), person(ADA, Some(CHOSEN), &["a.txt", "b/c.txt"])].concat(),
        orders: to_do([Op::Delete { user: ADA }]),
        ..Scenario::default()
    };
    delete_within a_crash_in_a_deletion_within_a_transaction_leaves_a_user_or_one_in_the_trash Scenario {
        setup: nested(ADA),
        orders: to_do([Op::DeleteWithin { user: ADA }]),
        ..Scenario::default()
    };
    delete_two a_crash_in_the_second_deletion_leaves_the_first_one_done Scenario {
        setup: [nested(ADA), nested(BOB)].concat(),
        orders: to_do([Op::Delete { user: ADA }, Op::Delete { user: BOB }]),
        ..Scenario::default()
    };
    delete_normal a_crash_in_a_deletion_with_normal_durability_leaves_a_user_or_one_in_the_trash Scenario {
        setup: nested(ADA),
        orders: Orders { is_durability_normal: true, ..to_do([Op::Delete { user: ADA }]) },
        ..Scenario::default()
    };
    restore a_crash_in_a_restore_leaves_a_user_or_one_in_the_trash Scenario {
        setup: trashed(ADA),
        orders: to_do([Op::Restore { user: ADA, email: None }]),
        ..Scenario::default()
    };
    restore_email a_crash_in_a_restore_with_another_address_leaves_the_old_one_or_the_new Scenario {
        setup: [trashed(ADA), vec![Op::Create { user: BOB, email: ADA, path: None }]].concat(),
        orders: to_do([Op::Restore { user: ADA, email: None }, Op::Restore { user: ADA, email: Some(9) }]),
        ..Scenario::default()
    };
    purge a_crash_in_a_purge_leaves_nothing_once_it_has_begun Scenario {
        setup: [tangled(ADA), nested(BOB)].concat(),
        orders: to_do([Op::Purge { user: ADA }]),
        ..Scenario::default()
    };
    purge_all a_crash_in_a_purge_of_several_leaves_nothing_of_all_once_it_has_begun Scenario {
        setup: [trashed(ADA), vec![Op::Create { user: BOB, email: BOB, path: None }, Op::Delete { user: BOB }], trashed(CYD)]
            .concat(),
        orders: to_do([Op::PurgeAll]),
        ..Scenario::default()
    };
    adopt_first a_crash_in_an_adoption_leaves_an_adopted_directory_or_a_stray_one Scenario {
        setup: vec![Op::Create { user: ADA, email: ADA, path: None }, place_chosen()],
        orders: to_do([adopt()]),
        ..Scenario::default()
    };
    adopt_other a_crash_in_an_adoption_leaves_the_empty_directory_before_or_the_adopted_one Scenario {
        setup: [person(ADA, None, &[]), vec![place_chosen()]].concat(),
        orders: to_do([adopt()]),
        ..Scenario::default()
    };
    adopt_new a_crash_in_a_creation_on_a_directory_leaves_a_user_with_it_or_none Scenario {
        setup: vec![place_chosen()],
        orders: to_do([Op::CreateOn { user: ADA, email: ADA, path: CHOSEN.to_owned() }]),
        ..Scenario::default()
    };
    adopt_late what_was_written_into_a_discarded_directory_is_in_quarantine_whenever_a_crash_comes Scenario {
        setup: [person(ADA, None, &[]), vec![place_chosen()]].concat(),
        setup_more: Some(write_into_what_is_discarded),
        orders: Orders { is_opening_armed: true, ..Orders::default() },
        ..Scenario::default()
    };
    import a_crash_in_an_import_leaves_a_user_with_all_their_files_or_none Scenario {
        setup: nested(BOB),
        setup_more: Some(|place, _| place.put_archive(&import_nested())),
        orders: to_do([import_nested()]),
        ..Scenario::default()
    };
    import_bare a_crash_in_an_import_of_a_user_without_a_directory_leaves_a_user_or_none Scenario {
        setup: nested(BOB),
        setup_more: Some(|place, _| place.put_archive(&import(None, None))),
        orders: to_do([import(None, None)]),
        ..Scenario::default()
    };
    import_twice a_crash_in_a_second_import_leaves_the_first_one_done Scenario {
        setup: nested(BOB),
        setup_more: Some(|place, _| place.put_archive(&import_chosen())),
        orders: to_do([import_chosen(), import_chosen()]),
        ..Scenario::default()
    };
    import_late a_crash_in_an_import_that_clears_up_after_another_leaves_a_user_with_all_their_files_or_none Scenario {
        setup: nested(BOB),
        setup_more: Some(leave_a_stage),
        orders: to_do([import_nested()]),
        ..Scenario::default()
    };
    bring_back a_crash_while_files_of_a_backup_are_put_beside_others_leaves_all_of_them_or_none Scenario {
        setup: [nested(BOB), fewer(ADA)].concat(),
        setup_more: Some(|place, _| place.put_backup(&nested(ADA))),
        orders: to_do([bring_back()]),
        ..Scenario::default()
    };
    bring_back_trashed a_crash_while_a_user_is_brought_back_leaves_them_in_the_trash_or_with_all_files Scenario {
        setup: [fewer(ADA), vec![Op::Delete { user: ADA }]].concat(),
        setup_more: Some(|place, _| place.put_backup(&trashed(ADA))),
        orders: to_do([bring_back()]),
        ..Scenario::default()
    };
    repair a_crash_in_a_repair_loses_nothing_and_another_repair_ends_it Scenario {
        setup: [
            nested(ADA),
            vec![
                Op::Create { user: BOB, email: BOB, path: None },
                Op::Place { path: derived(BOB) },
                Op::Place { path: "storage/orphan".to_owned() },
                Op::Place { path: "trash/orphan".to_owned() },
                Op::Loosen { path: derived(ADA) },
            ],
        ]
        .concat(),
        orders: to_do([Op::Repair]),
        ..Scenario::default()
    };
    recover_make a_crash_while_a_crashed_making_is_finished_changes_nothing_about_its_end Scenario {
        setup: vec![Op::Create { user: ADA, email: ADA, path: Some(CHOSEN.to_owned()) }],
        orders: to_do([Op::Open { user: ADA }]),
        is_of_recovery: true,
        ..Scenario::default()
    };
    recover_delete a_crash_while_a_crashed_deletion_is_finished_changes_nothing_about_its_end Scenario {
        setup: person(ADA, Some(CHOSEN), &["a.txt"]),
        orders: to_do([Op::Delete { user: ADA }]),
        is_of_recovery: true,
        ..Scenario::default()
    };
    recover_restore a_crash_while_a_crashed_restore_is_finished_changes_nothing_about_its_end Scenario {
        setup: trashed(ADA),
        orders: to_do([Op::Restore { user: ADA, email: Some(9) }]),
        is_of_recovery: true,
        ..Scenario::default()
    };
    recover_import a_crash_while_a_crashed_import_is_finished_changes_nothing_about_its_end Scenario {
        setup: nested(BOB),
        setup_more: Some(|place, _| place.put_archive(&import_chosen())),
        orders: to_do([import_chosen()]),
        is_of_recovery: true,
    };
    recover_bring_back a_crash_while_a_crashed_return_is_finished_changes_nothing_about_its_end Scenario {
        setup: [fewer(ADA), vec![Op::Delete { user: ADA }]].concat(),
        setup_more: Some(|place, _| place.put_backup(&nested(ADA))),
        orders: to_do([bring_back()]),
        is_of_recovery: true,
    };
    recover_purge a_crash_while_a_crashed_purge_is_finished_changes_nothing_about_its_end Scenario {
        setup: trashed(ADA),
        orders: to_do([Op::Purge { user: ADA }]),
        is_of_recovery: true,
        ..Scenario::default()
    };
    delete_copied a_crash_while_a_directory_is_copied_to_the_trash_leaves_a_user_or_one_in_the_trash Scenario {
        setup: [nested(BOB), person(ADA, Some(CHOSEN), &["a.txt", "b/c.txt"])].concat(),
        orders: to_copy([linked(ADA), Op::Delete { user: ADA }]),
        ..Scenario::default()
    };
    restore_copied a_crash_while_a_directory_is_copied_back_leaves_a_user_or_one_in_the_trash Scenario {
        setup: [person(ADA, Some(CHOSEN), &["a.txt", "b/c.txt"]), vec![Op::Delete { user: ADA }]].concat(),
        orders: to_copy([Op::Restore { user: ADA, email: None }]),
        ..Scenario::default()
    };
    import_copied a_crash_while_imported_files_are_copied_in_place_leaves_a_user_with_all_of_them_or_none Scenario {
        setup: nested(BOB),
        setup_more: Some(|place, _| place.put_archive(&import_nested())),
        orders: to_copy([import_nested()]),
        ..Scenario::default()
    };
    return_copied a_crash_while_files_of_a_backup_are_copied_in_place_leaves_a_user_with_all_of_them_or_none Scenario {
        setup: [nested(BOB), vec![Op::Create { user: ADA, email: ADA, path: None }]].concat(),
        setup_more: Some(|place, _| place.put_backup(&nested(ADA))),
        orders: to_copy([bring_back()]),
        ..Scenario::default()
    };
    bring_back_copied a_crash_while_single_files_of_a_backup_are_copied_beside_others_leaves_all_of_them_or_none Scenario {
        setup: [nested(BOB), fewer(ADA)].concat(),
        setup_more: Some(|place, _| place.put_backup(&nested(ADA))),
        orders: to_copy([bring_back()]),
        ..Scenario::default()
    };
    repair_file_copied a_crash_while_a_repair_copies_a_single_file_loses_nothing_and_another_repair_ends_it Scenario {
        setup: nested(ADA),
        setup_more: Some(put_an_orphaned_file),
        orders: to_copy([Op::Repair]),
        ..Scenario::default()
    };
    purge_copied a_crash_in_a_purge_that_can_move_nothing_leaves_someone_to_purge_or_nobody Scenario {
        setup: tangled(ADA),
        orders: to_copy([Op::Purge { user: ADA }]),
        ..Scenario::default()
    };
    adopt_copied a_crash_while_what_an_adoption_leaves_is_copied_to_quarantine_loses_nothing Scenario {
        setup: [person(ADA, None, &[]), vec![place_chosen()]].concat(),
        setup_more: Some(write_into_what_is_discarded),
        orders: Orders { is_opening_armed: true, way: Way::Copied, ..Orders::default() },
        ..Scenario::default()
    };
    repair_copied a_crash_in_a_repair_that_copies_loses_nothing_and_another_repair_ends_it Scenario {
        setup: [nested(ADA), vec![Op::Place { path: "storage/orphan".to_owned() }]].concat(),
        orders: to_copy([Op::Repair]),
        ..Scenario::default()
    };
    recover_delete_copied a_crash_while_a_crashed_copy_to_the_trash_is_finished_changes_nothing_about_its_end Scenario {
        setup: person(ADA, Some(CHOSEN), &["a.txt"]),
        orders: to_copy([Op::Delete { user: ADA }]),
        is_of_recovery: true,
        ..Scenario::default()
    };
    recover_restore_copied a_crash_while_a_crashed_copy_back_is_finished_changes_nothing_about_its_end Scenario {
        setup: [person(ADA, Some(CHOSEN), &["a.txt"]), vec![Op::Delete { user: ADA }]].concat(),
        orders: to_copy([Op::Restore { user: ADA, email: None }]),
        is_of_recovery: true,
        ..Scenario::default()
    };
    recover_adopt a_crash_while_a_crashed_adoption_is_finished_changes_nothing_about_its_end Scenario {
        setup: [person(ADA, None, &[]), vec![place_chosen()]].concat(),
        orders: to_do([adopt()]),
        is_of_recovery: true,
        ..Scenario::default()
    };
}

#[test]
fn every_point_in_the_table_is_passed_in_a_scenario_that_there_is() {
    let mut known = BTreeSet::new();
    for (point, scenarios) in POINTS {
        assert!(known.insert(point), "{point} is there twice");
        for pattern in scenarios.split(' ') {
            // That it is passed there is seen in that scenario.
            assert!(
                SCENARIOS.iter().any(|name| fits(name, pattern)),
                "{point}: there is no scenario {pattern:?}"
            );
        }
    }
}
