//! Bills of containers and vector stores that were computed by hand from the published prices.

use oracle::hosted::{Container, DAY_S, FILE_BYTES_MAX, Shown, Store, Taking, storage_pico};
use oracle::prices::Memory;

/// Picodollars in a thousandth of a dollar.
const MILLI: u128 = 1_000_000_000;
const GIB: u64 = 1 << 30;
const HOUR_S: i64 = 3_600;

fn at_once(bytes: u64) -> Taking {
    Taking { bytes, lasts_s: 0, has_failed: false }
}

#[test]
fn a_container_costs_a_twentieth_of_a_session_for_each_begun_minute_and_five_at_the_least() {
    // 0.03, 0.12, 0.48 and 1.92 USD for twenty minutes.
    for (memory, minute_micro) in
        [(Memory::G1, 1_500), (Memory::G4, 6_000), (Memory::G16, 24_000), (Memory::G64, 96_000)]
    {
        let container = Container::made(memory, None, 1_000);
        let minute = minute_micro * 1_000_000;
        for (after_s, minutes) in
            [(0, 5), (300, 5), (301, 6), (360, 6), (1_199, 20), (1_200, 20), (9_999, 20)]
        {
            assert_eq!(container.charge_pico(1_000 + after_s), minutes * minute, "{memory:?} {after_s}");
        }
    }
    assert_eq!(Container::made(Memory::G1, None, 0).charge_pico(1_200), 30 * MILLI, "a session");
}

#[test]
fn a_container_lives_for_its_idle_time_after_its_last_use() {
    let mut container = Container::made(Memory::G4, Some(10), 0);
    assert!(container.use_at(599));
    assert!(container.lives(1_198) && !container.lives(1_199));
    assert!(!container.use_at(1_199) && !container.delete(1_199), "it has ended");
    // Twenty minutes have begun.
    assert_eq!(container.charge_pico(5_000), 120 * MILLI);
    let mut short = Container::made(Memory::G4, Some(1), 0);
    assert_eq!(short.charge_pico(5_000), 30 * MILLI, "five minutes");
    assert!(short.delete(59));
}

#[test]
fn a_deletion_ends_a_container_and_what_it_costs() {
    let mut container = Container::made(Memory::G64, None, 0);
    assert!(container.delete(421) && !container.lives(421));
    assert_eq!(container.charge_pico(420), 7 * 96 * MILLI);
    assert_eq!(container.charge_pico(9_999), 8 * 96 * MILLI);
}

#[test]
fn storage_costs_ten_cents_for_a_gibibyte_and_day() {
    let day = u128::try_from(DAY_S).unwrap();
    assert_eq!(storage_pico(u128::from(GIB) * day), 100 * MILLI);
    // A MiB and day: 0.10 USD by 1,024.
    assert_eq!(storage_pico((1 << 20) * day), 97_656_250);
    assert_eq!(storage_pico(1), 1, "rounded up");
    assert_eq!(storage_pico(0), 0);
}

#[test]
fn a_store_costs_what_its_files_take_for_as_long_as_they_are_there() {
    let mut store = Store::made(None, 0, 0);
    assert_eq!(store.charge_pico(DAY_S), 0, "empty");
    store.add("a", at_once(GIB), false, 0);
    store.add("b", at_once(GIB / 2), false, 12 * HOUR_S);
    store.add("a", at_once(GIB), false, 13 * HOUR_S);
    // A GiB for a day, and a half for a half.
    assert_eq!(store.charge_pico(DAY_S), 125 * MILLI);
    assert!(store.remove("a", DAY_S) && !store.remove("a", DAY_S));
    assert_eq!(store.charge_pico(2 * DAY_S), 175 * MILLI);
    assert!(store.delete(2 * DAY_S));
    assert_eq!(store.charge_pico(9 * DAY_S), 175 * MILLI);
}

#[test]
fn a_store_expires_so_many_days_after_its_last_use() {
    let mut store = Store::made(Some(1), 0, 0);
    store.add("a", at_once(GIB), false, 12 * HOUR_S);
    assert!(store.lives(36 * HOUR_S - 1) && !store.lives(36 * HOUR_S));
    assert_eq!(store.charge_pico(9 * DAY_S), 100 * MILLI);
    assert!(!store.delete(9 * DAY_S));
}

#[test]
fn files_count_from_the_request_on_until_they_fail_or_are_cancelled() {
    let mut store = Store::made(None, 0, 0);
    store.add("failed", Taking { bytes: GIB, lasts_s: 6 * HOUR_S, has_failed: true }, false, 0);
    store.add("cancelled", Taking { bytes: GIB, lasts_s: 18 * HOUR_S, has_failed: false }, false, 0);
    store.cancel(12 * HOUR_S);
    assert_eq!(store.charge_pico(DAY_S), 75 * MILLI);
}

#[test]
fn what_upstream_says_of_a_store_is_late() {
    let mut store = Store::made(None, 30, 0);
    store.add("a", Taking { bytes: 7, lasts_s: 100, has_failed: false }, false, 10);
    store.add("b", Taking { bytes: 9, lasts_s: 0, has_failed: true }, false, 10);
    assert_eq!(store.shown(39), Shown::default());
    let shown =
        |usage_bytes, in_progress, completed, failed| Shown { usage_bytes, in_progress, completed, failed };
    assert_eq!(store.shown(40), shown(0, 1, 0, 1));
    assert_eq!(store.shown(140), shown(7, 0, 1, 1));
    store.remove("a", 200);
    assert_eq!(store.shown(229), shown(7, 0, 1, 1));
    assert_eq!(store.shown(230), shown(0, 0, 0, 1));
}

#[test]
fn the_guard_books_a_file_at_its_most_until_a_look_shows_its_size() {
    let mut store = Store::made(None, 0, 0);
    store.add("a", Taking { bytes: 1 << 20, lasts_s: 6 * HOUR_S, has_failed: false }, false, 0);
    store.look(59);
    assert_eq!(store.booked_pico(12 * HOUR_S), 32 * 97_656_250, "64 MiB for half a day");
    store.look(HOUR_S);
    assert_eq!(store.booked_pico(12 * HOUR_S), 32 * 97_656_250, "it is being taken up");
    store.look(12 * HOUR_S);
    // From then on a MiB for half a day.
    assert_eq!(store.booked_pico(DAY_S), 32 * 97_656_250 + 48_828_125);
    assert_eq!(store.held_pico(DAY_S, DAY_S), 97_656_250, "for the next day");
    store.add("b", at_once(5), true, DAY_S);
    assert_eq!(store.held_pico(DAY_S, DAY_S), 161 * 97_656_250);
    let day_later = store.booked_pico(2 * DAY_S) - store.booked_pico(DAY_S);
    assert_eq!(day_later, 161 * 97_656_250, "160 MiB more");
    assert_eq!(FILE_BYTES_MAX, [67_108_864, 167_772_160]);
}
