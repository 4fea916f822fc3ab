//! Holds that outlive their requests: each is for a job at upstream, and stays through the
//! death of the guard until the job's end is known.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use spendguard::domain::Money;
use spendguard::domain::demand::Bound;
use spendguard::guard::{Ending, Guard, Reservation, ReserveRequest};
use spendguard::ledger::entry::{Attribution, Basis, Job, Kind};
use spendguard::startup::{self, Opened};
use spendguard::store::reports::EntryFilter;
use spendguard::store::{BackgroundWriter, Durability, Store};

/// The folder that the child of a test works in.
const CHILD_FOLDER: &str = "SPENDGUARD_TEST_FOLDER";
const NAME: &str = "jobs::the_hold_of_a_job_outlives_kill_9_and_is_ended_once";

/// A kind of job that only this test knows.
fn job(object: &str) -> Job {
    Job {
        kind: "test".to_owned(),
        object: object.to_owned(),
        deadline_s: 2_000_000_000,
        terms: String::new(),
    }
}

/// Opens the ledger of a folder under a limit of a dollar, to be written step by step; waits
/// until another run has let go of it.
async fn open_without_threads(folder: &Path) -> (Opened, BackgroundWriter) {
    let config = folder.join("spendguard.toml");
    std::fs::write(&config, "[[limit]]\nname = \"all\"\nwindow = \"total\"\nhard = 1\n").unwrap();
    let settings = spendguard::config::load(Some(&config), []).unwrap();
    let mut tries = 0;
    let store = loop {
        match Store::open(&folder.join("data"), Durability::Process) {
            Ok(store) => break store,
            Err(error) => assert!(tries < 500, "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let config = startup::Config { open_requests_max: 10, zone: "UTC".into() };
    let (opened, writer) = startup::open(store, &config, Arc::default(), Arc::default()).unwrap();
    let installed = opened.rulebook.install_file_limits(settings.limits, settings.zone);
    stepped(&writer, installed).await.unwrap();
    (opened, writer)
}

/// The same with the threads of the writer.
async fn open(folder: &Path) -> (Opened, std::thread::JoinHandle<()>) {
    let (opened, writer) = open_without_threads(folder).await;
    (opened, writer.start().unwrap())
}

/// Does something that waits for the writer.
async fn stepped<T>(writer: &BackgroundWriter, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::task::yield_now() => writer.step(),
        }
    }
}

async fn reserve(guard: &Arc<Guard>, nano: i64) -> Reservation {
    let bound = Bound { cost: Money::from_nano(nano), input_tokens: 200, output_tokens: 100 };
    let request = ReserveRequest::new(Arc::new(Attribution::default()), bound);
    let mut reservation = guard.reserve(request).await.unwrap();
    reservation.mark_sent();
    reservation
}

fn held(opened: &Opened) -> i64 {
    opened.books.limits()[0].1.first().map_or(0, |reading| reading.meter.held)
}

fn settlements() -> EntryFilter {
    EntryFilter { kind: Some(Kind::Settle), ascending: true, count_max: 10, ..EntryFilter::default() }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Leaves a request and two jobs open, says so, and waits to be killed. The ids of the jobs
/// lie within the batch of holds that the request's is in.
fn child(folder: &Path) {
    run(async {
        let (opened, _writer) = open(folder).await;
        let guard = &opened.guard;
        let (first, request, second) =
            tokio::join!(reserve(guard, 3_000), reserve(guard, 5_000), reserve(guard, 7_000));
        guard.detach(first, job("first")).await.unwrap();
        guard.detach(second, job("second")).await.unwrap();
        // One that ends before the death, within the range of a batch that is still open.
        let (ended, _) = guard.resume_job("test", "second").await.unwrap().unwrap();
        ended.settle(Basis::Reported, Ending { cost: Money::from_nano(6_000), ..Ending::default() });
        guard.core().flush().await.unwrap();
        println!("detached");
        std::mem::forget(request);
        std::future::pending::<()>().await;
    });
}

#[test]
fn the_hold_of_a_job_outlives_kill_9_and_is_ended_once() {
    if let Some(folder) = std::env::var_os(CHILD_FOLDER) {
        return child(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.ends_with("detached")), "it ended before");
    child.kill().unwrap();
    child.wait().unwrap();
    run(async {
        let (opened, writer) = open(folder.path()).await;
        let guard = &opened.guard;
        assert_eq!(guard.in_doubt(), (Money::from_nano(3_000), 1), "the request is charged, the job goes on");
        assert_eq!(held(&opened), 3_000, "and counts on limits");
        let report = opened.books.verify().await.unwrap();
        assert!(report.differences.is_empty() && report.holds == 1, "{report:#?}");
        let again = guard.detach(reserve(guard, 1).await, job("first")).await;
        again.unwrap_err().release(Ending::default());
        assert!(guard.resume_job("test", "second").await.unwrap().is_none(), "it has ended");
        assert!(guard.resume_job("other", "first").await.unwrap().is_none());
        let (resumed, _) = guard.resume_job("test", "first").await.unwrap().unwrap();
        assert!(guard.resume_job("test", "first").await.unwrap().is_none(), "one ends it");
        resumed.settle(Basis::Reported, Ending { cost: Money::from_nano(2_000), ..Ending::default() });
        guard.core().flush().await.unwrap();
        assert_eq!((guard.in_doubt(), held(&opened)), ((Money::ZERO, 0), 0));
        drop(opened);
        writer.join().unwrap();

        let (opened, _writer) = open(folder.path()).await;
        assert_eq!(opened.guard.in_doubt(), (Money::ZERO, 0), "nothing comes back");
        let entries = opened.reports.entries(settlements()).await.unwrap();
        let mut costs: Vec<_> = entries.iter().map(|entry| (entry.cost.nano(), entry.basis)).collect();
        costs.sort_unstable();
        let expected = [(2_000, Basis::Reported), (5_000, Basis::Assumed), (6_000, Basis::Reported)];
        assert_eq!(costs, expected.map(|(cost, basis)| (cost, Some(basis))));
        assert!(opened.books.verify().await.unwrap().differences.is_empty());
    });
}

#[test]
fn a_job_that_is_taken_up_and_dropped_is_charged_its_hold() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (opened, _writer) = open(folder.path()).await;
        let guard = &opened.guard;
        guard.detach(reserve(guard, 4_000).await, job("lost")).await.unwrap();
        assert_eq!((guard.in_doubt().1, guard.core().open_slots()), (1, 0), "it takes no slot of requests");
        drop(guard.resume_job("test", "lost").await.unwrap().unwrap());
        guard.core().flush().await.unwrap();
        let entry = opened.reports.entries(EntryFilter { count_max: 1, ..EntryFilter::default() });
        let entry = entry.await.unwrap().remove(0);
        assert_eq!((entry.cost, entry.basis), (Money::from_nano(4_000), Some(Basis::Assumed)));
        assert_eq!(guard.in_doubt(), (Money::ZERO, 0));
    });
}

#[test]
fn a_job_is_resumed_only_once_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (opened, writer) = open_without_threads(folder.path()).await;
        let guard = &opened.guard;
        let reservation = reserve(guard, 4_000).await;
        let (detached, ()) = tokio::join!(guard.detach(reservation, job("early")), async {
            let early = guard.resume_job("test", "early").await.unwrap();
            assert!(early.is_none(), "if it can't be written, its request ends it");
            writer.step();
        });
        detached.unwrap();
        let (resumed, _) = guard.resume_job("test", "early").await.unwrap().unwrap();
        resumed.settle(Basis::Reported, Ending { cost: Money::from_nano(1_000), ..Ending::default() });
        writer.step();
        assert_eq!(guard.in_doubt(), (Money::ZERO, 0));
        let report = stepped(&writer, opened.books.verify()).await.unwrap();
        assert!(report.differences.is_empty() && report.holds == 0, "{report:#?}");
    });
}

#[test]
fn a_job_whose_request_is_cancelled_while_it_is_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (opened, writer) = open_without_threads(folder.path()).await;
        let guard = &opened.guard;
        let reservation = reserve(guard, 4_000).await;
        tokio::select! {
            biased;
            _ = guard.detach(reservation, job("cancelled")) => unreachable!("it waits for the write"),
            () = std::future::ready(()) => {}
        }
        assert!(guard.resume_job("test", "cancelled").await.unwrap().is_none(), "its request has ended it");
        // Another of that object may run, written in the same group.
        let reservation = reserve(guard, 5_000).await;
        stepped(&writer, guard.detach(reservation, job("cancelled"))).await.unwrap();
        assert_eq!(guard.in_doubt(), (Money::from_nano(5_000), 1));
        let report = stepped(&writer, opened.books.verify()).await.unwrap();
        assert!(report.differences.is_empty() && report.holds == 1, "{report:#?}");
        drop((opened, writer));

        let (opened, _writer) = open(folder.path()).await;
        assert_eq!(opened.guard.in_doubt(), (Money::from_nano(5_000), 1), "only the other job is open");
        assert_eq!((held(&opened), opened.reports.entries(settlements()).await.unwrap().len()), (5_000, 1));
    });
}

#[test]
fn another_job_of_an_object_waits_until_the_ending_of_the_first_is_queued() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (opened, _writer) = open(folder.path()).await;
        let guard = &opened.guard;
        guard.detach(reserve(guard, 4_000).await, job("twice")).await.unwrap();
        let (first, _) = guard.resume_job("test", "twice").await.unwrap().unwrap();
        let second = guard.detach(reserve(guard, 5_000).await, job("twice")).await.unwrap_err();
        let first = guard.detach(first, job("elsewhere")).await.unwrap_err();
        first.settle(Basis::Reported, Ending { cost: Money::from_nano(1_000), ..Ending::default() });
        guard.detach(second, job("twice")).await.unwrap();
        let (second, _) = guard.resume_job("test", "twice").await.unwrap().unwrap();
        second.settle(Basis::Reported, Ending { cost: Money::from_nano(2_000), ..Ending::default() });
        guard.core().flush().await.unwrap();
        assert!(guard.core().is_healthy() && guard.in_doubt() == (Money::ZERO, 0));
        let report = opened.books.verify().await.unwrap();
        assert!(report.differences.is_empty() && report.holds == 0, "{report:#?}");
    });
}

#[test]
fn a_job_that_cannot_be_written_stays_the_hold_of_its_request() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (opened, writer) = open_without_threads(folder.path()).await;
        let guard = &opened.guard;
        let reservation = reserve(guard, 4_000).await;
        let readonly = |on: bool| writer.disturb(move |db| db.pragma_update(None, "query_only", on).unwrap());
        readonly(true);
        let reservation = stepped(&writer, guard.detach(reservation, job("failed"))).await.unwrap_err();
        assert!(guard.resume_job("test", "failed").await.unwrap().is_none());
        readonly(false);
        stepped(&writer, guard.detach(reservation, job("failed"))).await.unwrap();
        assert!(guard.resume_job("test", "failed").await.unwrap().is_some());
    });
}

#[test]
fn the_next_hold_of_a_job_takes_the_place_of_the_last_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let (opened, writer) = open_without_threads(folder.path()).await;
        let guard = &opened.guard;
        let first = reserve(guard, 3_000).await;
        stepped(&writer, guard.detach(first, job("renewed"))).await.unwrap();
        let mut periods = 0;
        // The second time both are of one group.
        for cost in [2_000, 1_000, 500] {
            let next = stepped(&writer, reserve(guard, 5_000 + cost)).await;
            let (last, open) = guard.resume_job("test", "renewed").await.unwrap().unwrap();
            assert!(guard.resume_job("test", "renewed").await.unwrap().is_none(), "it is taken");
            last.leave_again(open.job.clone());
            let (last, _) = guard.resume_job("test", "renewed").await.unwrap().unwrap();
            let ending = Ending { cost: Money::from_nano(cost), ..Ending::default() };
            let settled = last.renew(Basis::Counted, ending, next, job("renewed")).await.unwrap();
            assert_eq!(settled.cost, Money::from_nano(cost));
            assert_eq!((held(&opened), guard.in_doubt().1), (5_000 + cost, 1));
            periods += 1;
        }
        // A death here loses nothing: the last period in the database is still open.
        let report = stepped(&writer, opened.books.verify()).await.unwrap();
        assert!(report.differences.is_empty() && report.holds == 1, "{report:#?}");
        drop((opened, writer));

        let (opened, _writer) = open(folder.path()).await;
        assert_eq!((held(&opened), opened.guard.in_doubt().1), (5_500, 1));
        assert_eq!(opened.reports.entries(settlements()).await.unwrap().len(), periods);
        let (last, _) = opened.guard.resume_job("test", "renewed").await.unwrap().unwrap();
        last.settle(Basis::Counted, Ending::default());
        opened.guard.core().flush().await.unwrap();
        let report = opened.books.verify().await.unwrap();
        assert!(report.differences.is_empty() && report.holds == 0, "{report:#?}");
    });
}
