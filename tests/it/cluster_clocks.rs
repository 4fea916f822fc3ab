//! Guards on hosts whose clocks are wrong by more than a day, by `libfaketime`.

use std::process::{Command, Stdio};

use http::StatusCode;
use serde_json::json;

use crate::cluster::Cluster;
use crate::harness::run;
use crate::process::{Place, Serving};

const THREE_A_DAY: &str = "[[limit]]\nname = \"all\"\nwindow = \"day\"\nunit = \"requests\"\nhard = 3\n\
                           [guard]\nhold_wait = \"0s\"\nwhen_tight = \"reject\"\n";

/// A guard whose host has another time.
fn serve_at(cluster: &Cluster, offset: &str) -> Serving {
    let shown = Command::new("faketime").args(["-f", offset, "env"]).stdin(Stdio::null()).output();
    let shown = shown.expect("this test needs the program faketime, as Debian's package has it").stdout;
    let shown = String::from_utf8(shown).unwrap();
    let mut command = cluster.command();
    let faked = shown.lines().filter_map(|line| line.split_once('='));
    command.envs(faked.filter(|(name, _)| *name == "LD_PRELOAD" || name.starts_with("FAKETIME")));
    // A wrong clock goes on as any other does.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    Place::serve_by(command)
}

#[test]
fn a_wrong_clock_on_a_host_opens_no_window_early_and_entries_have_the_databases_time() {
    run(async {
        let cluster = Cluster::new(THREE_A_DAY);
        let guards = [cluster.serve(), serve_at(&cluster, "+26h"), serve_at(&cluster, "-26h")];
        let key = guards[1].make_key().await;
        for (guard, days) in guards.iter().zip([0, 26, -26]) {
            let day =
                format!("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '{days} hours', 'YYYY-MM-DD')");
            let log = guard.process.log();
            assert!(log.starts_with(&cluster.postgres.ask(&day)), "the clock is not wrong: {log}");
            assert_eq!(
                guard.chat(&key, &[], json!({})).await.status,
                StatusCode::OK,
                "{}",
                guard.process.log()
            );
        }
        cluster.at_rest(&guards[0]).await;
        for guard in &guards {
            let answer = guard.chat(&key, &[], json!({})).await;
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
        }
        let apart = "SELECT count(*), max(abs(extract(epoch FROM now()) * 1000 - admitted_ms)) < 60000, \
                     max(abs(extract(epoch FROM now()) * 1000 - created_ms)) < 60000 FROM entry WHERE kind = 'settle'";
        assert_eq!(cluster.postgres.ask(apart), "3|t|t");
        for guard in &guards {
            guard.verify().await;
        }
    });
}
