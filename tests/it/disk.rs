//! Disks that are full or can't be written: nothing is admitted, nothing is
//! forgotten, and it goes on by itself.
//!
//! A small tmpfs stands for the disk. Where mounting isn't permitted the tests
//! say so and are over.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::upstream::Upstream;

use crate::harness::{client, run};
use crate::process::{Place, Process, SPENDGUARD, Serving, refused, served};

const LIMIT: &str = "[[limit]]\nname = \"small\"\nwindow = \"total\"\nhard = 5\n";

/// A small disk of its own, mounted where a guard or a database keeps its data.
pub(crate) struct Disk(PathBuf);

impl Disk {
    fn mounted_on(data: &Path) -> Option<Self> {
        Self::mounted(data, "size=1m,mode=700")
    }

    /// One with options of its own.
    pub(crate) fn mounted(data: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(data).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(data).output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(data.to_owned())),
            failed => {
                println!("skipped: a tmpfs can't be mounted here: {failed:?}");
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [65_536, 4_096, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn remount(&self, how: &str) {
        let done =
            Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Reads the database as it is, so that its log only grows: what is moved out of
/// the log leaves room in it, and the guard would go on by that.
fn reading(place: &Place) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(place.database()).unwrap();
    db.execute_batch("BEGIN; SELECT 1 FROM api_key").unwrap();
    db
}

/// Sends requests until one is refused because the ledger can't be written.
async fn until_refused(guard: &Serving, key: &str) {
    for _ in 0..200 {
        let answer = guard.chat(key, &[], json!({})).await;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.code(), "ledger_unavailable", "{answer:?}");
            assert_eq!(answer.header("x-should-retry"), "true");
            return;
        }
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    panic!("the disk is not full");
}

/// No request is admitted, and nothing goes upstream.
async fn is_closed(guard: &Serving, key: &str, upstream: &Upstream) {
    let before = served(upstream).await.0;
    for _ in 0..10 {
        assert_eq!(guard.chat(key, &[], json!({})).await.code(), "ledger_unavailable");
    }
    assert_eq!(served(upstream).await.0, before, "nothing was forwarded");
}

/// Goes on by itself, within ten seconds.
async fn goes_on(guard: &Serving, key: &str) {
    for _ in 0..500 {
        if guard.chat(key, &[], json!({})).await.status == StatusCode::OK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not go on");
}

/// The entries of slow requests, by what their end user is called.
async fn slow_ones(guard: &Serving) -> Vec<Value> {
    let page = guard.ask(Method::GET, "/guard/v1/ledger?limit=1000", None).await;
    let entries = page["data"].as_array().unwrap();
    entries.iter().filter(|entry| entry["end_user"] == "slow").cloned().collect()
}

fn slow() -> Value {
    json!({ "user": "slow", "max_completion_tokens": 20 })
}

#[test]
fn on_a_full_tmpfs_no_request_is_admitted_no_ending_is_lost_and_it_goes_on_by_itself() {
    run(async {
        let (_fake, fake) = Process::fake();
        let (place, upstream) = (Place::new(&fake, LIMIT), client(&fake));
        let Some(disk) = Disk::mounted_on(&place.data) else { return };
        let guard = place.serve();
        let key = guard.make_key().await;
        let reader = reading(&place);
        let ordered = [("x-fake-latency-ms", "1500")];
        let admitted = guard.chat(&key, &ordered, slow());
        let full = async {
            guard.held("small", |held| held > Money::ZERO).await;
            disk.fill();
            until_refused(&guard, &key).await;
            is_closed(&guard, &key, &upstream).await;
        };
        let (admitted, ()) = tokio::join!(admitted, full);
        assert_eq!(admitted.status, StatusCode::OK, "it was admitted before");
        assert_eq!(guard.chat(&key, &[], json!({})).await.code(), "ledger_unavailable", "it is still full");
        drop(reader);
        disk.free();
        goes_on(&guard, &key).await;
        guard.held("small", |held| held == Money::ZERO).await;
        let entries = slow_ones(&guard).await;
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0]["basis"], "reported", "its ending was kept: {entries:?}");
        guard.verify().await;
        let (settled, _) = guard.meter("small").await;
        assert!(settled.nano() >= served(&upstream).await.1);
        guard.stop();
    });
}

#[test]
fn killed_on_a_full_tmpfs_it_charges_what_was_held_once_there_is_space() {
    run(async {
        let (_fake, fake) = Process::fake();
        let (place, upstream) = (Place::new(&fake, LIMIT), client(&fake));
        let Some(disk) = Disk::mounted_on(&place.data) else { return };
        let guard = place.serve();
        let key = guard.make_key().await;
        let reader = reading(&place);
        // One that ends while the disk is full, and one that never ends.
        let (ending, hanging) = ([("x-fake-latency-ms", "1200")], [("x-fake-hang", "1")]);
        let ends = guard.chat(&key, &ending, slow());
        let hangs = tokio::time::timeout(Duration::from_secs(3), guard.chat(&key, &hanging, slow()));
        let full = async {
            guard.held("small", |held| held > Money::from_nano(30_000)).await;
            disk.fill();
            until_refused(&guard, &key).await;
        };
        let (ended, hanging, ()) = tokio::join!(ends, hangs, full);
        assert!(ended.status == StatusCode::OK && hanging.is_err());
        guard.process.kill();
        // Closed after a guard, it would move the log and remove it.
        std::mem::forget(reader);
        let said = place.refused();
        assert!(said.contains("can't be written") && said.contains("disk full"), "{said}");
        disk.free();
        let guard = place.serve();
        let entries = slow_ones(&guard).await;
        assert_eq!(entries.len(), 2, "{entries:?}");
        for entry in &entries {
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("assumed"), &entry["held_usd"]),
                "{entry}"
            );
        }
        guard.verify().await;
        let (settled, held) = guard.meter("small").await;
        assert!(settled.nano() >= served(&upstream).await.1 && held == Money::ZERO);
        goes_on(&guard, &key).await;
    });
}

#[test]
fn on_a_tmpfs_that_is_full_from_the_start_it_says_so_and_starts_once_there_is_space() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, LIMIT);
        let Some(disk) = Disk::mounted_on(&place.data) else { return };
        disk.fill();
        let said = place.refused();
        assert!(said.contains("full") || said.contains("free some space"), "{said}");
        assert!(said.contains(&place.data.display().to_string()), "{said}");
        disk.free();
        place.serve().verify().await;
    });
}

#[test]
fn on_a_tmpfs_that_is_mounted_read_only_it_says_so_and_starts_once_it_is_not() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, LIMIT);
        let Some(disk) = Disk::mounted_on(&place.data) else { return };
        disk.remount("ro");
        let said = place.refused();
        assert!(said.contains("mounted read-only") && said.contains("data"), "{said}");
        disk.remount("rw");
        let guard = place.serve();
        let key = guard.make_key().await;
        goes_on(&guard, &key).await;
        guard.process.kill();
        disk.remount("ro");
        let said = place.refused();
        assert!(said.contains("mounted read-only"), "with a ledger in it, too: {said}");
        disk.remount("rw");
        place.serve().verify().await;
    });
}

/// `chown`, `chmod` or `chattr`; whether it worked.
fn change(program: &str, how: &str, path: &Path) -> bool {
    Command::new(program)
        .arg(how)
        .arg(path)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|done| done.success())
}

#[test]
fn as_a_user_who_may_not_write_the_database_it_says_so() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        place.serve().process.kill();
        let other = Path::new("setpriv");
        let may_run = Command::new(other)
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", SPENDGUARD, "--version"])
            .output();
        if !may_run.is_ok_and(|done| done.status.success()) || !change("chown", "65534", place.folder.path())
        {
            return println!("skipped: the binary can't be run as another user here");
        }
        // The folder is its own, the database is not.
        for path in [
            place.data.clone(),
            place.data.join("lock"),
            place.data.join("spendguard.db-wal"),
            place.data.join("spendguard.db-shm"),
        ] {
            assert!(change("chown", "65534", &path));
        }
        assert!(change("chmod", "0444", &place.database()));
        let said = refused(place.command_of(other));
        assert!(said.contains("can't be written") && said.contains("read-only"), "{said}");
        // Neither is.
        assert!(change("chown", "0", &place.data) && change("chmod", "0755", &place.data));
        assert!(change("chown", "0", &place.data.join("lock")));
        let said = refused(place.command_of(other));
        assert!(said.contains("can't use the data folder") && said.contains("owner"), "{said}");
    });
}

/// Files that are immutable as long as this lives.
struct Frozen([PathBuf; 2]);

impl Frozen {
    /// Whether this file system refuses to write to an immutable file that is
    /// open already, as it would on a mount that became read-only.
    fn is_possible_in(folder: &Path) -> bool {
        let path = folder.join("frozen");
        let mut file = File::create(&path).unwrap();
        let refuses = change("chattr", "+i", &path) && file.write_all(b"x").is_err();
        let _ = change("chattr", "-i", &path);
        refuses
    }

    fn new(files: [PathBuf; 2]) -> Self {
        let frozen = Self(files);
        assert!(frozen.0.iter().all(|file| change("chattr", "+i", file)));
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for file in &self.0 {
            change("chattr", "-i", file);
        }
    }
}

// A mount can't become read-only while a file on it is open for writing.
#[test]
fn while_its_files_are_immutable_no_request_is_admitted_and_it_goes_on_by_itself() {
    run(async {
        let (_fake, fake) = Process::fake();
        let (place, upstream) = (Place::new(&fake, LIMIT), client(&fake));
        if !Frozen::is_possible_in(place.folder.path()) {
            return println!("skipped: open files can't be made immutable here");
        }
        let guard = place.serve();
        let key = guard.make_key().await;
        goes_on(&guard, &key).await;
        let ordered = [("x-fake-latency-ms", "800")];
        let admitted = guard.chat(&key, &ordered, slow());
        let frozen = async {
            guard.held("small", |held| held > Money::ZERO).await;
            let frozen = Frozen::new([place.database(), place.data.join("spendguard.db-wal")]);
            is_closed(&guard, &key, &upstream).await;
            frozen
        };
        let (admitted, frozen) = tokio::join!(admitted, frozen);
        assert_eq!(admitted.status, StatusCode::OK, "it was admitted before");
        drop(frozen);
        goes_on(&guard, &key).await;
        guard.held("small", |held| held == Money::ZERO).await;
        assert_eq!(slow_ones(&guard).await[0]["basis"], "reported");
        guard.verify().await;
    });
}
