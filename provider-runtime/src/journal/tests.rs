use std::fs;
use std::path::PathBuf;

use super::*;
use crate::journal::file::JOURNAL_FILE;

fn kept(name: &str) -> Receipt {
    Receipt { ticket: format!("ticket-{name}"), claims: "{}".into(), voucher: Some(format!("voucher-{}", &name[..1])) }
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn journal(&self) -> Journal {
        Journal::open(self.0.path(), JOURNAL_FILE).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(JOURNAL_FILE)
    }
}

fn names(journal: &Journal) -> Vec<String> {
    let mut names = Vec::new();
    journal.backlog().each(|_, kept| names.push(kept.ticket.clone()));
    names
}

async fn journal_with(dir: &Dir, receipts: &[&str]) -> Journal {
    let journal = dir.journal();
    for name in receipts {
        journal.reserve().unwrap().keep(kept(name));
    }
    journal.synced().await;
    journal
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_survive_until_they_are_acknowledged() {
    let dir = Dir::new();
    let journal = journal_with(&dir, &["a", "b", "c"]).await;
    let numbers: Vec<u64> = journal.backlog().take(10).into_iter().map(|(number, _)| number).collect();
    journal.acknowledge(vec![numbers[1]]).await;
    journal.synced().await;
    drop(journal);

    let journal = dir.journal();
    assert_eq!(names(&journal), ["ticket-a", "ticket-c"]);
    let (_, first) = journal.backlog().take(1).remove(0);
    assert_eq!(first, kept("a"), "with its voucher");
    journal.backlog().start_over();
    journal.reserve().unwrap().keep(kept("d"));
    journal.synced().await;
    assert_eq!(names(&dir.journal()), ["ticket-a", "ticket-c", "ticket-d"], "numbers go on where they were");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_cut_short_anywhere_costs_only_itself() {
    let dir = Dir::new();
    drop(journal_with(&dir, &["a", "b"]).await);
    let whole = fs::read(dir.file()).unwrap();
    let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in first_line..whole.len() {
        fs::write(dir.file(), &whole[..cut]).unwrap();
        let journal = dir.journal();
        assert_eq!(names(&journal), ["ticket-a"], "cut at {cut}");
        journal.reserve().unwrap().keep(kept("c"));
        journal.synced().await;
        drop(journal);
        assert_eq!(names(&dir.journal()), ["ticket-a", "ticket-c"], "written on after a cut at {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_line_is_passed_over() {
    let dir = Dir::new();
    drop(journal_with(&dir, &["a", "b", "c"]).await);
    let text = fs::read_to_string(dir.file()).unwrap();
    fs::write(dir.file(), text.replace("ticket-b", "ticket-x")).unwrap();
    assert_eq!(names(&dir.journal()), ["ticket-a", "ticket-c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_emptied_when_everything_is_acknowledged() {
    let dir = Dir::new();
    let journal = journal_with(&dir, &["a", "b"]).await;
    assert!(fs::metadata(dir.file()).unwrap().len() > 0);
    let numbers = journal.backlog().take(10).into_iter().map(|(number, _)| number).collect();
    journal.acknowledge(numbers).await;
    journal.synced().await;
    assert_eq!(fs::metadata(dir.file()).unwrap().len(), 0);
    assert_eq!(journal.backlog().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_journal_is_rewritten_without_what_was_acknowledged() {
    let dir = Dir::new();
    let journal = journal_with(&dir, &["first"]).await;
    let (first, _) = journal.backlog().take(1)[0];
    let large = "x".repeat(1 << 20);
    for _ in 0..20 {
        journal.reserve().unwrap().keep(kept(&large));
        journal.synced().await;
        let numbers = journal.backlog().take(10).into_iter().map(|(number, _)| number).collect();
        journal.acknowledge(numbers).await;
    }
    journal.synced().await;
    assert!(fs::metadata(dir.file()).unwrap().len() < 8 << 20, "16 MiB are the limit");
    assert_eq!(names(&dir.journal()), ["ticket-first"]);
    journal.acknowledge(vec![first]).await;
    journal.synced().await;
    assert_eq!(fs::metadata(dir.file()).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_a_receipt_no_job_gets_a_place() {
    let dir = Dir::new();
    let journal = dir.journal();
    let places: Vec<Place> = std::iter::from_fn(|| journal.reserve()).collect();
    assert_eq!(places.len(), QUEUE);
    places.into_iter().for_each(|place| place.keep(kept("a")));
    tokio::time::timeout(Duration::from_secs(30), journal.synced()).await.unwrap();
    assert!(journal.reserve().is_some());
}

#[tokio::test]
async fn what_is_not_decided_is_offered_again_later_and_new_ones_at_once() {
    let backlog = Backlog::new([(1, kept("a")), (2, kept("b"))].into());
    let taken = backlog.take(10);
    assert_eq!(taken.len(), 2);
    assert!(backlog.take(10).is_empty(), "what is offered is not offered twice at once");
    let due = Instant::now() + Duration::from_millis(100);
    backlog.offer_again(&[1], due);
    assert!(backlog.take(10).is_empty());
    backlog.offerable().await;
    assert!(Instant::now() >= due);
    assert_eq!(backlog.take(10)[0].0, 1);
    backlog.offer_again(&[1, 2], Instant::now());
    backlog.add(kept("c"), |number, _| assert_eq!(number, 3));
    let mut next: Vec<u64> = backlog.take(2).into_iter().map(|(number, _)| number).collect();
    next.sort_unstable();
    assert_eq!(next, [1, 3], "a full batch has old and new ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_may_have_lost_is_written_anew() {
    let dir = Dir::new();
    let journal = journal_with(&dir, &["a"]).await;
    let broken = dir.file().with_extension("broken");
    fs::write(&broken, "").unwrap();
    journal.reserve().unwrap().keep(kept("b"));
    journal.synced().await;
    assert!(journal.reserve().is_none(), "no job while the disk refuses");
    // What the kernel took for written is gone, and it says nothing.
    fs::write(dir.file(), "").unwrap();
    fs::remove_file(&broken).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while journal.reserve().is_none() {
        assert!(Instant::now() < deadline, "the disk is in order again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(names(&dir.journal()), ["ticket-a", "ticket-b"]);
}
