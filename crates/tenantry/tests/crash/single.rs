//! Crashes at one failpoint, with something else that happens after them.

use futures_lite::future::block_on;
use tenantry::{ErrorKind, FindingKind, Store, check};
use tenantry_testkit::way::Way;

use crate::child::{Crash, Orders};
use crate::scenarios::{ADA, BOB, CYD, bring_back, import_chosen, nested, on_way, to_do};
use crate::world::{ARCHIVE, Model, Op, Place, derived, find_sound, id, stages};

/// The user is there, and what they brought can't get to its place: it must not be taken for what a
/// crash has left.
#[test]
fn a_stage_with_an_intent_is_kept_by_other_imports() {
    let (place, mut model) = (Place::new(), Model::default());
    place.prepare(&mut model, &nested(BOB));
    place.put_archive(&import_chosen());
    let crash = Crash::Point("restore: move the directory".to_owned());
    let ran = Orders { crash, ..to_do([import_chosen()]) }.run(&place.data());
    assert!(ran.has_crashed);
    // Somebody has put a file where there should be a directory.
    let blocked = place.data().join("storage/customers");
    std::fs::remove_dir_all(&blocked).unwrap();
    std::fs::write(&blocked, "in the way").unwrap();
    let store = block_on(Store::open(place.data())).unwrap();
    assert_eq!(import_chosen().run(&store, &place.data()), Err(ErrorKind::EmailTaken));
    let other =
        Op::Import { user: CYD, email: CYD, path: None, files: Some(vec!["x.txt".to_owned()]) };
    std::fs::remove_file(place.data().join(ARCHIVE)).unwrap();
    place.put_archive(&other);
    assert_eq!(other.run(&store, &place.data()), Ok(()));
    assert_eq!(stages(&place.data()).len(), 1);
    assert_eq!(block_on(store.directory(id(ADA))).unwrap_err().kind(), ErrorKind::StorageBlocked);
    block_on(store.close()).unwrap();
    let findings = block_on(check(place.data())).unwrap().findings;
    assert!(
        findings.iter().any(|finding| finding.kind == FindingKind::IntentUnfinished),
        "{findings:?}"
    );

    std::fs::remove_file(&blocked).unwrap();
    [import_chosen(), other].iter().for_each(|op| model.apply(op).unwrap());
    assert_eq!(find_sound(&place.data(), &[]), model.world);
    assert_eq!(stages(&place.data()), [""; 0]);
}

/// Deletes a user by a copy, which crashes, and returns where their directory was.
fn crash_in_a_copy(place: &Place, model: &mut Model, point: &str) -> std::path::PathBuf {
    let delete = Op::Delete { user: ADA };
    place.prepare(model, &nested(ADA));
    let ran =
        Orders { crash: Crash::Point(point.to_owned()), ..on_way(Way::Copied, [delete.clone()]) }
            .run(&place.data());
    assert!(ran.has_crashed);
    model.apply(&delete).unwrap();
    place.data().join(derived(ADA))
}

/// A copy is complete and has its name. What has been written since to the place of the original is
/// nowhere else.
#[test]
fn what_is_written_at_the_old_place_after_it_was_copied_is_not_removed() {
    let (place, mut model) = (Place::new(), Model::default());
    let old = crash_in_a_copy(&place, &mut model, "remove: a file");
    let late = old.join("b/late.txt");
    std::fs::write(&late, "late").unwrap();
    let store = block_on(Store::open(place.data())).unwrap();
    assert_eq!(block_on(store.restore(id(ADA), None)).unwrap_err().kind(), ErrorKind::Unfinished);
    block_on(store.close()).unwrap();
    assert_eq!(std::fs::read_to_string(&late).unwrap(), "late");
    let findings = block_on(check(place.data())).unwrap().findings;
    assert_eq!(
        findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(),
        [FindingKind::IntentUnfinished]
    );
    std::fs::remove_file(&late).unwrap();
    assert_eq!(find_sound(&place.data(), &[]), model.world);
    assert!(!old.exists());
}

/// The files of a backup are about to become a user's directory, where that takes a placeholder
/// that is replaced.
#[test]
fn a_placeholder_that_a_crash_has_left_is_not_taken_for_a_users_directory() {
    use std::os::unix::fs::PermissionsExt;

    let (place, mut model) = (Place::new(), Model::default());
    place.prepare(&mut model, &[Op::Create { user: ADA, email: ADA, path: None }]);
    place.put_backup(&nested(ADA));
    let crash = Crash::Point("restore: move a file".to_owned());
    assert!(Orders { crash, ..to_do([bring_back()]) }.run(&place.data()).has_crashed);
    let placeholder = place.data().join(derived(ADA));
    std::fs::create_dir(&placeholder).unwrap();
    std::fs::set_permissions(&placeholder, PermissionsExt::from_mode(0o1000)).unwrap();
    model.apply(&bring_back()).unwrap();
    assert_eq!(find_sound(&place.data(), &[]), model.world);
    assert_eq!(stages(&place.data()), [""; 0]);
}

/// A copy is complete, but the original has changed since.
#[test]
fn a_copy_that_is_older_than_the_original_is_made_anew() {
    for way in Way::ALL {
        let (place, mut model) = (Place::new(), Model::default());
        let old = crash_in_a_copy(&place, &mut model, "copy: name the directory");
        std::fs::write(old.join("b/c.txt"), "late").unwrap();
        let opening = Orders { is_opening_armed: true, way, ..Orders::default() };
        assert!(!opening.run(&place.data()).has_crashed);
        let files = model.world.people.get_mut(&ADA).unwrap().files.as_mut().unwrap();
        files.insert("b/c.txt".to_owned(), "late".to_owned());
        assert_eq!(find_sound(&place.data(), &[]), model.world, "{way:?}");
    }
}

/// A crash may come between the commit and the response. The client can't know, and sends the
/// request again.
#[test]
fn a_request_with_a_key_is_performed_once_wherever_it_crashes() {
    let create = Op::Create { user: ADA, email: ADA, path: None };
    let restore = Op::Restore { user: ADA, email: None };
    let trashed: Vec<Op> = nested(ADA).into_iter().chain([Op::Delete { user: ADA }]).collect();
    for (before, op) in [(Vec::new(), create), (trashed, restore)] {
        let op = Op::Once(Box::new(op));
        for at in 1.. {
            let (place, mut model) = (Place::new(), Model::default());
            place.prepare(&mut model, &before);
            let ran = Orders { crash: Crash::At(at), ..to_do([op.clone()]) }.run(&place.data());
            model.apply(&op).unwrap();
            let store = block_on(Store::open(place.data())).unwrap();
            for _ in 0..2 {
                assert_eq!(op.run(&store, &place.data()), Ok(()), "{:?}", ran.points);
            }
            block_on(store.close()).unwrap();
            assert_eq!(find_sound(&place.data(), &[]), model.world, "{:?}", ran.points);
            if !ran.has_crashed {
                assert!(at > 1, "no failpoint was reached");
                break;
            }
        }
    }
}
