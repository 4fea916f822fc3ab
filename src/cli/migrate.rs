//! `spendguard storage migrate`.

use std::time::Duration;

use crate::cli::args::MigrateArgs;
use crate::cli::{Failure, Format, complain, say, table};
use crate::clock::Clock;
use crate::config;
use crate::config::raw::SecretSource;
use crate::domain::Secret;
use crate::store::migrate::{CopiedTable, Place, Step, migrate};

/// Copies a ledger, and prints what was copied.
pub(crate) fn run(args: &MigrateArgs, format: Format) -> Result<(), Failure> {
    config::schema(&args.schema).map_err(|why| Failure::wrong(format!("--schema: {why}")))?;
    let from = place("--from", &args.from, &args.schema)?;
    let to = place("--to", &args.to, &args.schema)?;
    let clock = Clock::default();
    let (mut rows, mut copied, mut before) = (Vec::new(), (0, 0), Duration::ZERO);
    let migrated = migrate(&from, &to, |step| {
        let now = clock.running();
        let took = seconds(now.saturating_sub(std::mem::replace(&mut before, now)));
        match step {
            Step::Read => complain(&format!("read the source in {took} s")),
            Step::Copied(of) => {
                copied = (copied.0 + of.rows, copied.1 + of.rows_before);
                complain(&format!("copied {} rows of {} in {took} s", of.rows, of.name));
                rows.push(row(of, took));
            }
            Step::Compared => complain(&format!("compared the copy with it in {took} s")),
        }
    })
    .map_err(|error| Failure::failed(error.to_string()))?;
    let columns = [
        ("TABLE", false),
        ("ROWS", true),
        ("RESUMED AT", true),
        ("USD", true),
        ("SECONDS", true),
        ("CHECKSUM", false),
    ];
    table::print(format, &columns, &rows)?;
    let (report, seconds) = (migrated.report, seconds(clock.running()));
    if format == Format::Table {
        say(&format!(
            "copied {} rows and {} open holds in {seconds} s; the copy is like its source, row by row: {} entries and {} sums \
             verified",
            copied.0, migrated.holds, report.entries, report.rollups
        ));
        if copied.1 > 0 {
            say(&format!("{} of the rows were copied before, by a copy that was interrupted", copied.1));
        }
    }
    if report.differences.is_empty() {
        return Ok(());
    }
    for difference in &report.differences {
        complain(&format!("{}: {}", difference.kind, table::shown(&difference.what)));
    }
    Err(Failure::failed("the ledger is copied, and does not agree with itself, as it did not before"))
}

fn row(of: CopiedTable, took: String) -> Vec<String> {
    let cost = of.cost.map_or_else(String::new, |cost| cost.to_string());
    vec![of.name, of.rows.to_string(), of.rows_before.to_string(), cost, took, of.checksum]
}

/// A time in seconds, with a tenth.
fn seconds(time: Duration) -> String {
    format!("{}.{}", time.as_secs(), time.subsec_millis() / 100)
}

/// The ledger that an argument names.
fn place(argument: &str, text: &str, schema: &str) -> Result<Place, Failure> {
    let source = match text.split_once(':') {
        Some(("env", name)) => SecretSource { env: Some(name.to_owned()), file: None },
        Some(("file", path)) => SecretSource { env: None, file: Some(path.to_owned()) },
        Some(("postgres" | "postgresql", _)) => {
            return Ok(Place::Database { url: Secret::new(text), schema: schema.to_owned() });
        }
        _ => return Ok(Place::Folder(text.into())),
    };
    let environment = std::env::vars().collect();
    let url =
        config::secret(&source, &environment).map_err(|why| Failure::wrong(format!("{argument}: {why}")))?;
    Ok(Place::Database { url, schema: schema.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_named_by_its_folder_its_url_or_the_place_of_its_url() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "postgres://u:p@h/x\n").unwrap();
        let of = |text: &str| match place("--from", text, "s").map_err(|failure| failure.message) {
            Ok(Place::Folder(folder)) => format!("folder {}", folder.display()),
            Ok(Place::Database { url, schema }) => format!("{} {schema}", url.expose()),
            Err(message) => message,
        };
        assert_eq!(of("spendguard-data"), "folder spendguard-data");
        assert_eq!(of("/var/lib/a:b"), "folder /var/lib/a:b");
        assert_eq!(of("postgres://h/x"), "postgres://h/x s");
        assert_eq!(of(&format!("file:{}", file.display())), "postgres://u:p@h/x s");
        assert_eq!(of("env:NO_SUCH_URL"), "--from: the environment has no NO_SUCH_URL; set it");
    }

    #[test]
    fn a_time_has_a_tenth() {
        assert_eq!(seconds(Duration::from_millis(61_078)), "61.0");
    }
}
