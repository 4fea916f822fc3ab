//! The jobs that run, on the overview.

use spendguard::domain::Money;

use crate::background::{LASTING, LIMIT, begun, held};
use crate::dashboard::browser::Browser;
use crate::harness::{House, run};

#[test]
fn the_overview_shows_the_jobs_that_run_and_what_is_held_for_them() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut browser = Browser::signed_in(&house).await;
        assert!(!browser.page("/").await.contains("Jobs at OpenAI"), "none runs");
        for _ in 0..2 {
            begun(&house, &[LASTING]).await;
        }
        let page = browser.page("/").await;
        let jobs = page.split("Jobs at OpenAI").nth(1).unwrap().split("</section>").next().unwrap();
        let held = held(&house).await;
        assert!(held > Money::ZERO);
        for shown in ["Background responses", "2 jobs", "Held", &format!("title=\"${held}\"")] {
            assert!(jobs.contains(shown), "{shown}: {jobs}");
        }
    });
}
