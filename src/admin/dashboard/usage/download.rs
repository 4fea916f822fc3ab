//! The tables of the usage page as CSV files.
//!
//! The rows are those of the page, in its order; amounts are exact and days are
//! ISO dates, so that a spreadsheet can reckon with them.

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;

use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult};
use crate::admin::dashboard::usage::report::UsageReport;
use crate::admin::dashboard::usage::rows::GroupLabel;
use crate::admin::dashboard::usage::selection::{Selection, UsageQuery};
use crate::admin::dashboard::{Dashboard, figures};

/// Without it, spreadsheets take UTF-8 for another encoding.
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// Cells that begin with one of these are formulas to a spreadsheet, or may be once it has trimmed them.
const FORMULA_STARTS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// The table of groups.
pub(super) async fn groups(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<UsageQuery>,
) -> PageResult {
    let (selection, report) = UsageReport::for_query(&dashboard, &request, query).await?;
    let words = request.words();
    let mut rows = vec![vec![
        selection.by.title(words).to_owned(),
        words.requests.to_owned(),
        words.input_tokens.to_owned(),
        words.output_tokens.to_owned(),
        format!("{} (USD)", words.spend),
        words.share.to_owned(),
    ]];
    rows.extend(report.rows.iter().map(|row| {
        vec![
            match &row.label {
                GroupLabel::Name(name) => as_text(name),
                GroupLabel::Day(date) => date.to_string(),
            },
            row.sum.requests.to_string(),
            row.input().to_string(),
            row.output().to_string(),
            row.sum.cost.to_string(),
            figures::share(row.sum.cost.nano(), report.total.cost.nano()),
        ]
    }));
    file(&request, &selection, selection.by.name(), &rows)
}

/// The table of days, which has the values of the chart.
pub(super) async fn days(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<UsageQuery>,
) -> PageResult {
    let (selection, report) = UsageReport::for_query(&dashboard, &request, query).await?;
    let words = request.words();
    let head = [words.day.to_owned(), words.requests.to_owned(), format!("{} (USD)", words.total)];
    let mut rows = vec![head.into_iter().chain(report.series.iter().map(|name| as_text(name))).collect()];
    rows.extend(report.days.iter().map(|day| {
        let series = day.series.iter().take(report.series.len());
        let head = [day.date.to_string(), day.sum.requests.to_string(), day.sum.cost.to_string()];
        head.into_iter().chain(series.map(ToString::to_string)).collect::<Vec<_>>()
    }));
    file(&request, &selection, &format!("days-by-{}", selection.by.name()), &rows)
}

/// A text that a spreadsheet shows and does not calculate.
fn as_text(text: &str) -> String {
    if text.starts_with(FORMULA_STARTS) { format!("'{text}") } else { text.to_owned() }
}

/// The answer with a file, named by its content and its days.
fn file(request: &PageRequest, selection: &Selection, content: &str, rows: &[Vec<String>]) -> PageResult {
    let body = csv_of(rows).map_err(|error| {
        tracing::error!(event = "csv_file_failed", %error, "a CSV file could not be written");
        request.error_page(StatusCode::INTERNAL_SERVER_ERROR, request.words().not_done)
    })?;
    let name = format!("spendguard-usage-{content}-{}-to-{}.csv", selection.first, selection.last);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, body).into_response())
}

fn csv_of(rows: &[Vec<String>]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(BYTE_ORDER_MARK.as_bytes().to_vec());
    for row in rows {
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_never_formulas() {
        for (name, cell) in [
            ("gpt-5", "gpt-5"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@sum(a1)", "'@sum(a1)"),
            ("\t=1", "'\t=1"),
            ("＝1", "'＝1"),
            ("a,b", "\"a,b\""),
            ("=\"a\nb\"", "\"'=\"\"a\nb\"\"\""),
            ("ქართული", "ქართული"),
        ] {
            let file = csv_of(&[vec![as_text(name), "-1.5".to_owned()]]).unwrap();
            assert_eq!(String::from_utf8(file).unwrap(), format!("\u{feff}{cell},-1.5\r\n"), "{name}");
        }
    }
}
