//! The usage page: its chart, its tables in any order, its CSV files; and the seconds of events.

use std::fmt::Write as _;

use http::{Method, StatusCode};
use serde_json::json;

use crate::dashboard::browser::{Browser, seen, text};
use crate::harness::{House, call, chat, run};

/// A name that a spreadsheet would calculate, and that needs quotes.
const FORMULA: &str = "=HYPERLINK(\"http://evil.example\",\"a,b\")";

async fn spend(house: &House, key: &serde_json::Value, requests: usize) {
    let bearer = format!("Bearer {}", key["value"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for _ in 0..requests {
        let body = chat(json!({})).to_string().into();
        let answer = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

/// A house where "a" has spent once, the formula twice, and "Z" three times.
async fn house() -> House {
    let house = House::with("").await;
    for (name, requests) in [("a", 1), (FORMULA, 2), ("Z", 3)] {
        let key = house.make_key(json!({ "name": name })).await;
        spend(&house, &key, requests).await;
    }
    house.settled().await;
    house
}

/// The names of a table's rows, in their order.
fn rows(table: &str) -> Vec<String> {
    let heads = table.split("<th scope=\"row\">").skip(1).map(|row| row.split("</th>").next().unwrap());
    heads.map(|head| seen(&format!("<i>{head}")).concat()).collect()
}

fn table<'a>(page: &'a str, id: &str) -> &'a str {
    let from = page.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {page}"));
    page[from..].split("</table>").next().unwrap()
}

/// Reads a CSV file as a spreadsheet does.
fn records(file: &str) -> Vec<Vec<String>> {
    let file = file.strip_prefix('\u{feff}').expect("a spreadsheet has to see that it is UTF-8");
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(file.as_bytes());
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

#[test]
fn the_chart_is_stacked_by_what_is_chosen_and_a_table_has_the_same_values() {
    run(async {
        let house = house().await;
        let mut browser = Browser::signed_in(&house).await;
        for (by, series) in [("model", 1), ("key", 3), ("project", 1), ("user", 1), ("day", 0)] {
            let page = browser.page(&format!("/usage?by={by}")).await;
            let parts: usize = (0..8).map(|c| page.matches(&format!("class=\"fill c{c}\" x=")).count()).sum();
            assert_eq!(parts, series.max(1), "{by}: the spend of one day in as many parts as it has groups");
            assert_eq!(page.matches("class=\"swatch\"").count(), series, "{by}: its legend");
            assert_eq!(table(&page, "days").matches("<th class=\"number\"").count(), 2 + series, "{by}");
        }
        let page = browser.page("/usage?by=key").await;
        let titles: Vec<&str> = page.split("<title>").skip(2).map(|t| t.split('<').next().unwrap()).collect();
        assert_eq!(titles.len(), 30, "each day has a title");
        let cells = seen(table(&page, "days"));
        let today = &cells[cells.len() - 6..];
        let cost = |name: &str| {
            let line = titles[29].lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("{name} in {titles:?}")).to_owned()
        };
        assert_eq!(today[1], "6");
        assert_eq!(
            today[3..6],
            [cost("Z"), cost("=HYPERLINK(&quot;http://evil.example&quot;,&quot;a,b&quot;)"), cost("a")]
        );
        assert!(titles[29].lines().nth(1).unwrap().starts_with(&today[2]), "{titles:?} {today:?}");
    });
}

#[test]
fn groups_beyond_the_colours_of_the_chart_share_one_and_nothing_is_lost() {
    run(async {
        let house = House::with("").await;
        for user in 0..12 {
            house.chat(&[], json!({ "user": format!("user-{user}") })).await;
        }
        house.settled().await;
        let mut browser = Browser::signed_in(&house).await;
        let page = browser.page("/usage?by=user").await;
        assert_eq!(page.matches("class=\"swatch\"").count(), 8);
        let file = records(&text(&browser.get("/usage/days.csv?by=user").await));
        assert_eq!((file[0].len(), file[0].last().unwrap().as_str()), (11, "(all others)"));
        let nano = |text: &String| text.parse::<spendguard::domain::Money>().unwrap().nano();
        let today = file.last().unwrap();
        assert_eq!(today[3..].iter().map(nano).sum::<i64>(), nano(&today[2]), "{today:?}");
    });
}

#[test]
fn a_csv_file_has_the_rows_of_the_page_in_its_order_and_no_formula() {
    run(async {
        let house = house().await;
        let mut browser = Browser::signed_in(&house).await;
        let query = "by=key&since=2026-01-01&until=2026-01-31";
        let none = browser.get(&format!("/usage/groups.csv?{query}")).await;
        assert_eq!(
            none.header("content-disposition"),
            "attachment; filename=\"spendguard-usage-key-2026-01-01-to-2026-01-31.csv\""
        );
        assert_eq!(none.header("content-type"), "text/csv; charset=utf-8");
        assert_eq!(records(&text(&none)).len(), 1, "nothing was spent then");
        for (order, names) in [
            ("", ["Z", FORMULA, "a"]),
            ("&sort=requests&dir=asc", ["a", FORMULA, "Z"]),
            ("&sort=name&dir=asc", [FORMULA, "a", "Z"]),
        ] {
            let page = browser.page(&format!("/usage?by=key{order}")).await;
            let link = page.split("href=\"/usage/groups.csv?").nth(1).unwrap().split('"').next().unwrap();
            let link = format!("/usage/groups.csv?{}", link.replace("&amp;", "&"));
            let answer = browser.get(&link).await;
            let file = text(&answer);
            assert!(file.contains("\"'=HYPERLINK(\"\"http://evil.example\"\",\"\"a,b\"\")\",2,"), "{file}");
            let records = records(&file);
            assert_eq!(
                records[0],
                ["Key", "Requests", "Input tokens", "Output tokens", "Spend (USD)", "Share"]
            );
            let defused =
                names.map(|name| if name == FORMULA { format!("'{name}") } else { name.to_owned() });
            assert_eq!(records[1..].iter().map(|record| record[0].clone()).collect::<Vec<_>>(), defused);
            let shown: Vec<_> =
                rows(table(&page, "groups")).iter().map(|name| name.replace("&quot;", "\"")).collect();
            assert_eq!(shown, names, "{order}");
            let spent: f64 = records[1..].iter().map(|record| record[4].parse::<f64>().unwrap()).sum();
            assert!(spent > 0.0);
        }
        browser.language = "ka";
        let georgian = records(&text(&browser.get("/usage/groups.csv?by=model").await));
        assert_eq!(georgian[0][0], "მოდელი");
        let mut stranger = Browser::new(&house);
        let refused = stranger.get("/usage/groups.csv").await;
        assert_eq!((refused.status, refused.body.len()), (StatusCode::SEE_OTHER, 0));
    });
}

#[test]
fn tables_are_sorted_by_links_that_keep_the_rest_of_the_query() {
    run(async {
        let house = house().await;
        let mut browser = Browser::signed_in(&house).await;
        let page = browser.page("/usage?by=key&project=default&sort=name&dir=desc").await;
        assert_eq!(rows(table(&page, "groups")).first().map(String::as_str), Some("Z"));
        let groups = table(&page, "groups");
        assert_eq!(groups.matches("aria-sort=").count(), 1);
        assert!(groups.contains("aria-sort=\"descending\""), "{groups}");
        let links: Vec<&str> =
            groups.split("class=\"sort\" href=\"").skip(1).map(|l| l.split('"').next().unwrap()).collect();
        assert_eq!(links.len(), 5, "{links:?}");
        for link in &links {
            assert!(link.contains("by=key&amp;") && link.contains("project=default&amp;"), "{link}");
        }
        assert!(links[0].contains("sort=name&amp;dir=asc"), "a second click turns the order: {links:?}");
        assert!(links[4].contains("sort=spend&amp;dir=desc"), "numbers begin with the largest: {links:?}");
        let kept = page.split("name=\"since\"").nth(1).unwrap();
        assert!(kept.contains("name=\"sort\" value=\"name\""), "the form keeps the order");

        let names =
            |page: &str| rows(page).iter().map(|name| name.replace("&quot;", "\"")).collect::<Vec<_>>();
        let keys = browser.page("/keys?sort=spend&dir=desc").await;
        assert_eq!(names(&keys), ["Z", FORMULA, "a", "test"]);
        let keys = browser.page("/keys?sort=name&dir=asc").await;
        assert_eq!(names(&keys), [FORMULA, "a", "test", "Z"]);
        let unsorted = names(&browser.page("/keys").await);
        for query in ["?sort=secret&dir=asc", "?sort=%3Cscript%3E", "?dir=desc", "?sort=created&dir=x"] {
            let keys = browser.page(&format!("/keys{query}")).await;
            assert_eq!(names(&keys), unsorted, "{query}: the page's own order");
        }
        let found = browser.page("/keys?q=a&sort=name&dir=desc").await;
        assert!(found.contains("href=\"/keys?q=a&amp;sort=name&amp;dir=asc\""), "{found}");
        for path in ["/projects?sort=spend", "/billing?sort=amount"] {
            browser.page(path).await;
        }
    });
}

#[test]
fn pages_of_a_sorted_list_follow_each_other() {
    run(async {
        let house = House::with("").await;
        let mut expected = vec!["test".to_owned()];
        for number in 0..59 {
            let mut name = String::new();
            write!(name, "key {:02}", number * 37 % 59).unwrap();
            house.make_key(json!({ "name": name })).await;
            expected.push(name);
        }
        expected.sort();
        let mut browser = Browser::signed_in(&house).await;
        let first = browser.page("/keys?sort=name&dir=asc").await;
        let next = first.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
        let second = browser.page(&next.replace("&amp;", "&")).await;
        assert_eq!([rows(&first), rows(&second)].concat(), expected);
    });
}

#[test]
fn events_have_their_seconds() {
    run(async {
        let house =
            House::with("[[limit]]\nname = \"few\"\nunit = \"requests\"\nwindow = \"day\"\nhard = 1\n").await;
        house.chat(&[], json!({})).await;
        house.chat(&[], json!({})).await;
        house.settled().await;
        house.admin(Method::POST, "/guard/v1/projects", Some(json!({ "name": "P", "id": "p" }))).await;
        let mut browser = Browser::signed_in(&house).await;
        let is_clock = |text: &String| {
            let clock = text.strip_suffix(" UTC").map(|clock| clock.split(':').collect::<Vec<_>>());
            clock.is_some_and(|parts| parts.len() == 3 && parts.iter().all(|part| part.len() == 2))
        };
        for (path, events) in [("/activity", 3), ("/activity/audit", 2)] {
            let page = browser.page(path).await;
            assert_eq!(seen(&page).iter().filter(|text| is_clock(text)).count(), events, "{path}: {page}");
        }
    });
}
