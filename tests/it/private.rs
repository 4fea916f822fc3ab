//! The data folder and its files are closed to other users, and what was open is
//! closed or refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::run;
use crate::process::{Place, Process, refused};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_data_folder_that_others_may_read_is_closed_with_all_files_of_the_ledger() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        fs::create_dir(&place.data).unwrap();
        set_mode(&place.data, 0o755);
        for _ in 0..2 {
            let guard = place.serve();
            assert_eq!(mode(&place.data), 0o700);
            for name in ["spendguard.db", "spendguard.db-wal", "spendguard.db-shm", "lock"] {
                assert_eq!(mode(&place.data.join(name)), 0o600, "{name}");
            }
            guard.process.kill();
            // As an older release made them.
            set_mode(&place.data, 0o755);
            for name in ["spendguard.db", "spendguard.db-wal", "spendguard.db-shm", "lock"] {
                set_mode(&place.data.join(name), 0o644);
            }
        }
    });
}

#[test]
fn a_folder_that_holds_other_things_too_keeps_its_mode() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        fs::create_dir(&place.data).unwrap();
        fs::write(place.data.join("someone's.txt"), "x").unwrap();
        set_mode(&place.data, 0o755);
        let _guard = place.serve();
        assert_eq!(mode(&place.data), 0o755);
        assert_eq!(mode(&place.database()), 0o600);
    });
}

#[test]
fn an_admin_token_that_others_may_read_is_refused_with_the_remedy() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let command = || {
            let mut command = place.command();
            command.env_remove("SPENDGUARD_ADMIN_TOKEN");
            command
        };
        let file = place.data.join("admin-token");
        Process::of(command(), "OPENAI_BASE_URL").kill();
        assert_eq!(mode(&file), 0o600);
        set_mode(&file, 0o644);
        let said = refused(command());
        assert!(said.contains("admin-token: other users can read it (its mode is 644)"), "{said}");
        assert!(said.contains("chmod 600"), "{said}");
        set_mode(&file, 0o600);
        Process::of(command(), "OPENAI_BASE_URL").kill();
    });
}
