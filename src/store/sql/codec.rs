//! Holds and entries as rows and text, and back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::domain::Money;
use crate::domain::demand::{Bound, Tier};
use crate::ledger::entry::{Attribution, Basis, Entry, Hold, Kind};
use crate::store::records::Names;
pub(crate) use crate::store::sql::columns::{int, uint};
use crate::store::sql::columns::{json_from, json_text, named_from};
use crate::store::sql::quantities::{self, IN_COLUMNS, others_text, quantities_from, quantity_columns};
use crate::store::sql::value::places;
use crate::store::sql::{Db, Result, Row, params};

/// Tags as JSON text; the empty text for none.
pub(crate) fn tags_text(tags: &BTreeMap<String, String>) -> Result<String> {
    if tags.is_empty() { Ok(String::new()) } else { json_text(tags) }
}

/// Tags from their text.
pub(crate) fn tags_from(text: &str) -> Result<BTreeMap<String, String>> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    json_from(text, "tags", || format!("an entry, or the sum of some, with the tags {text}"))
}

/// A hold as one line of JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct HoldRow {
    pub(crate) id: u64,
    at: i64,
    project: Arc<str>,
    key: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "are_none")]
    tags: Arc<BTreeMap<String, String>>,
    endpoint: Cow<'static, str>,
    model: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priced_as: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_model: Option<Arc<str>>,
    cost: i64,
    input: u64,
    output: u64,
    #[serde(with = "by_name")]
    tier: Tier,
    price: Arc<str>,
    stream: bool,
}

fn are_none(tags: &Arc<BTreeMap<String, String>>) -> bool {
    tags.is_empty()
}

/// A tier as its name.
mod by_name {
    use serde::de::{Deserialize as _, Deserializer, Error as _};
    use serde::ser::Serializer;

    use crate::domain::demand::Tier;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it out so")]
    pub(super) fn serialize<S: Serializer>(tier: &Tier, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(tier.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tier, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Tier::named(&name).ok_or_else(|| D::Error::custom(format_args!("the tier {name:?} is not known")))
    }
}

impl HoldRow {
    pub(crate) fn of(hold: &Hold) -> Self {
        let of = &hold.attribution;
        Self {
            id: hold.id,
            at: hold.admitted_ms,
            project: Arc::clone(&of.project),
            key: Arc::clone(&of.key),
            user: of.end_user.clone(),
            tags: Arc::clone(&of.tags),
            endpoint: of.endpoint.clone(),
            model: Arc::clone(&of.model),
            priced_as: of.priced_as.clone(),
            image_model: of.image_model.clone(),
            cost: hold.bound.cost.nano(),
            input: hold.bound.input_tokens,
            output: hold.bound.output_tokens,
            tier: hold.tier,
            price: Arc::clone(&hold.price_version),
            stream: hold.stream,
        }
    }

    pub(crate) fn hold(self, names: &dyn Names) -> Hold {
        let attribution = Arc::new(Attribution {
            project_name: names.project(&self.project),
            key_name: names.key(&self.key),
            project: self.project,
            key: self.key,
            end_user: self.user,
            tags: self.tags,
            endpoint: self.endpoint,
            model: self.model,
            priced_as: self.priced_as,
            image_model: self.image_model,
        });
        let bound =
            Bound { cost: Money::from_nano(self.cost), input_tokens: self.input, output_tokens: self.output };
        Hold {
            id: self.id,
            admitted_ms: self.at,
            attribution,
            bound,
            tier: self.tier,
            price_version: self.price,
            stream: self.stream,
        }
    }
}

/// The stored batches of holds: the first id of each, and its lines.
pub(crate) fn hold_batches(db: Db<'_>) -> Result<Vec<(i64, String)>> {
    db.rows(db.holds_of_requests(), &[], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Whether a hold has its entry.
pub(crate) fn has_entry(db: Db<'_>, id: u64) -> Result<bool> {
    db.exists("SELECT 1 FROM entry WHERE id = ?1", params![int(id)])
}

pub(crate) const ENTRY_COLUMNS: &str = concat!(
    "id, kind, created_ms, admitted_ms, project, api_key, end_user, tags, endpoint, model, priced_as, \
     served_model, tier, basis, cost_nano, tool_fees_nano, held_nano, held_input, held_output, ",
    quantity_columns!(),
    ", price_version, status, upstream_request_id, object_id, duration_ms, ttft_ms, stream, disconnected, \
     corrects, note"
);

/// The first column behind the quantities.
const BEHIND: usize = QUANTITIES_AT + quantities::COLUMNS;
/// The first of the columns of quantities.
const QUANTITIES_AT: usize = 19;

static INSERT_ENTRY: LazyLock<String> =
    LazyLock::new(|| format!("INSERT INTO entry ({ENTRY_COLUMNS}) VALUES ({})", places(BEHIND + 10)));

/// Writes an entry, whose tags have this text.
pub(crate) fn insert_entry(db: Db<'_>, entry: &Entry, tags: &str) -> Result<()> {
    let of = &entry.attribution;
    let q = IN_COLUMNS.map(|class| int(entry.quantities[class]));
    let others = others_text(&entry.quantities.into())?;
    db.execute(
        &INSERT_ENTRY,
        params![
            int(entry.id),
            entry.kind.name(),
            entry.created_ms,
            entry.admitted_ms,
            &*of.project,
            &*of.key,
            of.end_user.as_deref().unwrap_or(""),
            tags,
            &*of.endpoint,
            &*of.model,
            priced_text(of),
            entry.served_model.as_deref().unwrap_or(""),
            entry.tier.name(),
            entry.basis.map_or("", Basis::name),
            entry.cost.nano(),
            entry.tool_fees.nano(),
            entry.held.cost.nano(),
            int(entry.held.input_tokens),
            int(entry.held.output_tokens),
            q[0],
            q[1],
            q[2],
            q[3],
            q[4],
            q[5],
            q[6],
            q[7],
            q[8],
            q[9],
            q[10],
            q[11],
            others,
            &*entry.price_version,
            entry.status,
            entry.upstream_request_id,
            entry.object_id,
            int(entry.duration_ms),
            entry.ttft_ms.map(int),
            entry.stream,
            entry.disconnected,
            entry.corrects.map(int),
            entry.note,
        ],
    )
    .map(drop)
}

/// What stands in the column `priced_as`: the name that the model is priced as and, behind
/// a tab, the model of the image tool. In one column, so that sums keep their keys.
pub(crate) fn priced_text(of: &Attribution) -> Cow<'_, str> {
    let priced_as = of.priced_as.as_deref().unwrap_or("");
    of.image_model.as_deref().map_or(Cow::Borrowed(priced_as), |image| format!("{priced_as}\t{image}").into())
}

fn some(text: Arc<str>) -> Option<Arc<str>> {
    if text.is_empty() { None } else { Some(text) }
}

/// Whom spending was for: project, key, end user, tags, endpoint, model and
/// priced as, from the column `first` on.
pub(crate) fn attribution_from(row: &Row<'_>, first: usize, names: &dyn Names) -> Result<Attribution> {
    let text = |offset: usize| row.get::<Arc<str>>(first + offset);
    let (project, key, priced) = (text(0)?, text(1)?, text(6)?);
    let image_model = priced.split_once('\t').map(|(_, image)| Arc::from(image));
    let priced_as = priced.split_once('\t').map_or_else(|| Arc::clone(&priced), |(name, _)| name.into());
    Ok(Attribution {
        project_name: names.project(&project),
        key_name: names.key(&key),
        project,
        key,
        end_user: some(text(2)?),
        tags: Arc::new(tags_from(row.text(first + 3)?)?),
        endpoint: text(4)?.to_string().into(),
        model: text(5)?,
        priced_as: some(priced_as),
        image_model,
    })
}

/// An entry from the columns of [`ENTRY_COLUMNS`].
pub(crate) fn entry_from(row: &Row<'_>, names: &dyn Names) -> Result<Entry> {
    let text = |at: usize| row.text(at);
    let id: i64 = row.get(0)?;
    let row_of = || format!("entry {id}");
    let basis = Some(text(13)?).filter(|basis| !basis.is_empty());
    Ok(Entry {
        id: uint(id),
        kind: named_from(text(1)?, "entry.kind", row_of, Kind::named)?,
        created_ms: row.get(2)?,
        admitted_ms: row.get(3)?,
        attribution: Arc::new(attribution_from(row, 4, names)?),
        served_model: some(row.get(11)?),
        tier: named_from(text(12)?, "entry.tier", row_of, Tier::named)?,
        basis: basis.map(|basis| named_from(basis, "entry.basis", row_of, Basis::named)).transpose()?,
        cost: Money::from_nano(row.get(14)?),
        tool_fees: Money::from_nano(row.get(15)?),
        held: Bound {
            cost: Money::from_nano(row.get(16)?),
            input_tokens: uint(row.get(17)?),
            output_tokens: uint(row.get(18)?),
        },
        quantities: quantities_from(row, QUANTITIES_AT)?,
        price_version: row.get(BEHIND)?,
        status: row.get(BEHIND + 1)?,
        upstream_request_id: row.get(BEHIND + 2)?,
        object_id: row.get(BEHIND + 3)?,
        duration_ms: uint(row.get(BEHIND + 4)?),
        ttft_ms: row.get::<Option<i64>>(BEHIND + 5)?.map(uint),
        stream: row.get(BEHIND + 6)?,
        disconnected: row.get(BEHIND + 7)?,
        corrects: row.get::<Option<i64>>(BEHIND + 8)?.map(uint),
        note: row.get(BEHIND + 9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::rollup::Ids;
    use crate::store::sqlite;

    #[test]
    fn a_name_that_is_not_known_is_an_error_that_says_where_it_stands() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let zeros = vec!["0"; 42].join(", ");
        db.execute(&format!("INSERT INTO entry VALUES ({zeros})"), &[]).unwrap();
        let fill = "UPDATE entry SET id = 7, tags = '', kind = 'settle', tier = 'default', basis = 'reported', other_quantities = NULL";
        let said = |change: &str| {
            db.execute(fill, &[]).unwrap();
            db.execute(&format!("UPDATE entry SET {change}"), &[]).unwrap();
            let sql = format!("SELECT {ENTRY_COLUMNS} FROM entry");
            db.row(&sql, &[], |row| entry_from(row, &Ids)).map_err(|error| error.to_string())
        };
        assert_eq!(said("basis = ''").unwrap().basis, None);
        for column in ["kind", "tier", "basis"] {
            let error = said(&format!("{column} = 'odd'")).unwrap_err();
            assert!(error.contains(&format!("entry.{column} of entry 7 can't be read")), "{error}");
        }
    }

    #[test]
    fn a_hold_comes_back_from_its_line_as_it_was() {
        let attribution = Attribution {
            project: "proj".into(),
            project_name: "proj".into(),
            key: "key".into(),
            key_name: "key".into(),
            end_user: Some("anna".into()),
            tags: Arc::new(BTreeMap::from([("team".to_owned(), "search".to_owned())])),
            endpoint: "/responses".into(),
            model: "gpt-5".into(),
            priced_as: Some("gpt-5".into()),
            image_model: Some("gpt-image-1.5".into()),
        };
        let bound = Bound { cost: Money::from_nano(1), input_tokens: 2, output_tokens: 3 };
        let hold = Hold {
            id: 7,
            admitted_ms: 9,
            attribution: Arc::new(attribution),
            bound,
            tier: Tier::Priority,
            price_version: "2026-11-21".into(),
            stream: true,
        };
        let line = json_text(&HoldRow::of(&hold)).unwrap();
        let odd = line.replace("\"priority\"", "\"odd\"");
        assert!(odd != line && serde_json::from_str::<HoldRow>(&odd).is_err(), "{odd}");
        assert_eq!(serde_json::from_str::<HoldRow>(&line).unwrap().hold(&Ids), hold);
    }
}
