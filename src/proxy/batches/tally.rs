//! Adds up what the lines of a batch's output cost, as they are read.

use std::sync::Arc;

use bytes::Bytes;

use crate::domain::demand::WebSearch;
use crate::domain::{Money, ObjectReference, Quantities};
use crate::guard::Guard;
use crate::ledger::entry::Basis;
use crate::pricing::sheet::{Sheet, UnknownModel};
use crate::protocol::lines::{Line, LineReader};
use crate::protocol::openai::batch::{OutputLine, Unreadable};
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::usage::Answer;
use crate::proxy::background::TermsError;
use crate::proxy::batches::lines::READ_HERE_BYTES_MAX;
use crate::proxy::batches::terms::BatchTerms;
use crate::proxy::bill::{Bill, Unknown};
use crate::proxy::body::ANSWER_BYTES_MAX;

/// The sums of the lines of one model.
#[derive(Debug)]
struct Tally {
    /// The model, as the lines of the input name it.
    model: String,
    /// `None` if its lines are not billed any more: its job has ended before.
    bill: Option<Bill>,
    line_cost_max: Money,
    /// Whether upstream keeps answers as objects.
    are_stored: bool,
    /// Lines that have searched the web, and were not charged for it yet. No answer says whether
    /// it is that of such a line.
    searching_lines: u64,
    sum: Sum,
}

/// What lines came to.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    pico: i128,
    fees_pico: i128,
    /// What lines cost at most whose cost is not known.
    assumed: Money,
    /// The least certain of all lines.
    pub(super) basis: Basis,
    pub(super) quantities: Quantities,
    /// The model that served all lines, if it is one.
    served_model: Served,
}

#[derive(Clone, Debug)]
enum Served {
    ByNone,
    By(Arc<str>),
    BySeveral,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            pico: 0,
            fees_pico: 0,
            assumed: Money::ZERO,
            basis: Basis::Reported,
            quantities: Quantities::default(),
            served_model: Served::ByNone,
        }
    }
}

impl Sum {
    /// That of one answer which has the usage of all lines; `None` if its cost is not known.
    pub(super) fn of(bill: &Bill, answer: &Answer) -> Option<Self> {
        let mut sum = Self::default();
        sum.add(bill, Money::ZERO, answer, || 0);
        (sum.basis != Basis::Assumed).then_some(sum)
    }

    /// What they cost together.
    pub(super) fn cost(&self) -> Money {
        let known = Money::from_pico_rounded_up(self.pico);
        Money::from_nano(known.nano().saturating_add(self.assumed.nano()))
    }

    /// The part of hosted tools.
    pub(super) fn tool_fees(&self) -> Money {
        Money::from_pico_rounded_up(self.fees_pico)
    }

    /// The model that served all of them, if it is one.
    pub(super) fn served_model(&self) -> Option<Arc<str>> {
        match &self.served_model {
            Served::By(model) => Some(Arc::clone(model)),
            Served::ByNone | Served::BySeveral => None,
        }
    }

    fn add(&mut self, bill: &Bill, line_cost_max: Money, answer: &Answer, count: impl FnOnce() -> u64) {
        match bill.of_line(answer, count) {
            Ok(None) => return,
            Ok(Some((basis, cost))) => {
                self.pico = self.pico.saturating_add(cost.pico);
                self.fees_pico = self.fees_pico.saturating_add(cost.fees_pico);
                self.quantities += cost.quantities;
                self.is_as_certain_as(basis);
            }
            Err(Unknown) => self.assume(line_cost_max),
        }
        let Some(model) = &answer.model else { return };
        self.served_model = match &self.served_model {
            Served::ByNone => Served::By(model.as_str().into()),
            Served::By(known) if **known == **model => Served::By(Arc::clone(known)),
            Served::By(_) | Served::BySeveral => Served::BySeveral,
        };
    }

    /// Adds a line whose cost is not known.
    fn assume(&mut self, line_cost_max: Money) {
        self.assumed = Money::from_nano(self.assumed.nano().saturating_add(line_cost_max.nano()));
        self.is_as_certain_as(Basis::Assumed);
    }

    fn is_as_certain_as(&mut self, basis: Basis) {
        let rank = |basis: Basis| match basis {
            Basis::Reported => 0,
            Basis::Counted => 1,
            Basis::Assumed => 2,
        };
        if rank(basis) > rank(self.basis) {
            self.basis = basis;
        }
    }
}

/// The lines of an output, read as its bytes come.
#[derive(Debug)]
pub(super) struct OutputLines {
    reader: LineReader,
    tallies: Tallies,
    /// Lines that are read on another thread.
    large: Vec<Bytes>,
}

/// The sums of a batch, by the models of its lines.
#[derive(Debug)]
struct Tallies {
    /// What all lines call: upstream takes no batch that calls several. `None` if no line is billed.
    operation: Option<&'static Operation>,
    by_model: Vec<Tally>,
    sheet: Arc<Sheet>,
    unknown: UnknownModel,
    at_s: i64,
    /// Objects that upstream may keep, and that were not handed out yet.
    made: Vec<ObjectReference>,
    /// Lines that were read, and those that are too long for that.
    lines: u64,
    unreadable: u64,
}

/// The answer of a line, and what it says where that has to be counted; `None` if it costs
/// nothing.
type Read = Result<Option<(Answer, String)>, Unreadable>;

impl OutputLines {
    /// An output of which nothing was read yet. `terms` has those of each model of the batch, in
    /// their order; `None` where the job has ended before. An error if nothing can be billed.
    pub(super) fn new(
        models: &[String],
        terms: &[Option<BatchTerms>],
        sheet: &Arc<Sheet>,
        unknown: UnknownModel,
    ) -> Result<Self, TermsError> {
        let mut by_model = Vec::new();
        for (model, terms) in models.iter().zip(terms) {
            let group = terms.as_ref().map(|terms| &terms.group);
            let bill = group.map(|group| group.terms.bill(sheet, unknown)).transpose()?;
            let line_cost_max = Money::from_nano(group.map_or(0, |group| group.line_cost_max_nano));
            let are_stored = group.is_some_and(|group| group.are_stored);
            let searching_lines = group.map_or(0, |group| group.searching_lines);
            by_model.push(Tally {
                model: model.clone(),
                bill,
                line_cost_max,
                are_stored,
                searching_lines,
                sum: Sum::default(),
            });
        }
        let first = by_model.iter().find_map(|tally| tally.bill.as_ref());
        let (operation, at_s) = (first.map(|bill| bill.operation), first.map_or(0, |bill| bill.at_s));
        let (sheet, made) = (Arc::clone(sheet), Vec::new());
        let tallies = Tallies { operation, by_model, sheet, unknown, at_s, made, lines: 0, unreadable: 0 };
        Ok(Self { reader: LineReader::new(ANSWER_BYTES_MAX), tallies, large: Vec::new() })
    }

    /// The memory of a line that is not whole yet.
    pub(super) const fn held_bytes(&self) -> usize {
        self.reader.held_bytes()
    }

    /// Takes the next bytes.
    pub(super) async fn take(&mut self, guard: &Guard, bytes: &[u8]) {
        let Self { reader, tallies, large } = self;
        reader.feed(bytes, |line| tallies.line(line, large));
        self.catch_up(guard).await;
    }

    /// The objects that upstream may keep of the lines since it was asked last, if they are so
    /// many.
    pub(super) fn made(&mut self, least: usize) -> Vec<ObjectReference> {
        let made = &mut self.tallies.made;
        if made.len() < least { Vec::new() } else { std::mem::take(made) }
    }

    /// Takes the end of the file, and returns the sums of each model; `None` if it has fewer lines than
    /// are said to be there: what came is not the output, or not all of it.
    pub(super) async fn end(&mut self, guard: &Guard, lines: Option<u64>) -> Option<Vec<Sum>> {
        let Self { reader, tallies, large } = self;
        reader.finish(|line| tallies.line(line, large));
        self.catch_up(guard).await;
        let Tallies { lines: read, unreadable, .. } = self.tallies;
        // Where no line can be read, it is something else.
        let found = if read > 0 { read.saturating_add(unreadable) } else { 0 };
        let is_whole = lines.is_none_or(|lines| found >= lines);
        is_whole
            .then(|| self.tallies.by_model.iter_mut().map(|tally| std::mem::take(&mut tally.sum)).collect())
    }

    /// Reads the large lines on another thread.
    async fn catch_up(&mut self, guard: &Guard) {
        let Some(operation) = self.tallies.operation else { return };
        for line in std::mem::take(&mut self.large) {
            let read = guard.parsed(&line, move |line| read(operation, line)).await;
            self.tallies.add(read);
        }
    }
}

impl Tallies {
    fn line(&mut self, line: Line<'_>, large: &mut Vec<Bytes>) {
        match line {
            Line::Whole(line) if line.len() > READ_HERE_BYTES_MAX => {
                large.push(Bytes::copy_from_slice(line));
            }
            Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole(line) => match self.operation {
                Some(operation) => self.add(read(operation, line)),
                None => self.lines += 1,
            },
            Line::TooLong => {
                self.lines += 1;
                self.assume();
            }
        }
    }

    /// Adds a line that can't be read: whichever model's it is, it is charged as the dearest.
    fn assume(&mut self) {
        if let Some(tally) = self.by_model.iter_mut().max_by_key(|tally| tally.line_cost_max) {
            tally.sum.assume(tally.line_cost_max);
        }
    }

    fn add(&mut self, read: Read) {
        let count = if read.is_ok() { &mut self.lines } else { &mut self.unreadable };
        *count += 1;
        let (answer, text) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(Unreadable) => return self.assume(),
        };
        let place = self.place_of(answer.model.as_deref());
        let Some(tally) = self.by_model.get_mut(place) else { return };
        let Tally { bill: Some(bill), line_cost_max, are_stored, searching_lines, sum, .. } = tally else {
            return;
        };
        if bill.tools.web_search == Some(WebSearch::Chat) {
            match searching_lines.checked_sub(1) {
                Some(left) => *searching_lines = left,
                None => bill.tools.web_search = None,
            }
        }
        let kept_as = bill.operation.kept_as.filter(|_| *are_stored);
        let made = answer.object_id.as_ref().zip(kept_as);
        self.made.extend(made.map(|(id, kind)| ObjectReference { kind, id: id.clone() }));
        sum.add(bill, *line_cost_max, &answer, || bill.count_output(&text));
    }

    /// The place of the model that a line of the input has named, by the one that has served it:
    /// itself, or its snapshot.
    fn place_of(&self, served: Option<&str>) -> usize {
        let (Some(served), [_, _, ..]) = (served, &*self.by_model) else { return 0 };
        let priced =
            |model: &str| self.sheet.price_of(model, self.at_s, self.unknown).map(|price| price.id.clone());
        let of = priced(served);
        let places = || self.by_model.iter().map(|tally| &*tally.model);
        let exact = places().position(|model| model == served);
        exact
            .or_else(|| places().position(|model| served.starts_with(model) && priced(model) == of))
            .or_else(|| {
                places()
                    .position(|model| served.strip_prefix(model).is_some_and(|rest| rest.starts_with('-')))
            })
            .unwrap_or(0)
    }
}

/// Reads a line of the output.
fn read(operation: &'static Operation, line: &[u8]) -> Read {
    let answered = OutputLine::read(line)?.filter(|answer| (200..300).contains(&answer.status));
    let Some(OutputLine { body, .. }) = answered else { return Ok(None) };
    let answer = operation.answer(body.as_bytes());
    let text = match answer.usage {
        Some(_) => String::new(),
        None => operation.output_text(body.as_bytes()).into_owned(),
    };
    Ok(Some((answer, text)))
}
