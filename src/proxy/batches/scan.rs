//! Scans the file of a batch, line by line as it passes, for the most that the batch can cost.
//!
//! Memory has one line at a time and a group for each model. A line that can't be priced does not
//! stop the file: it is an object like any other until a batch is made of it, which is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::demand::{Bound, Tier, ToolDemand, WebSearch};
use crate::domain::{Demand, KeptContainers, Money, ObjectReference, Quantities};
use crate::pricing::bound::{BoundInputs, ModelTokens, bound, pictures};
use crate::pricing::count;
use crate::pricing::plan::Written;
use crate::pricing::sheet::Price;
use crate::protocol::openai::batch::{InputLine, LINES_MAX};
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::usage::AnswerForm;
use crate::protocol::openai::{Invalid, InvalidKind};
use crate::proxy::background::Terms;
use crate::proxy::batches::file::{BatchFile, Fault, FieldOfLines, Group, LabelsOfLines};
use crate::proxy::batches::joined::{image_price, join, kept};
use crate::proxy::batches::pricing::Pricing;
use crate::proxy::bill::{self, Bill};
use crate::proxy::models;

/// The most groups of lines, each of a model, in one file: each has a hold of its own.
const GROUPS_MAX: usize = 16;
/// The most objects that the lines of a file name.
const NAMED_MAX: usize = 256;

/// The lines of a file so far.
#[derive(Debug)]
pub(in crate::proxy) struct Scan {
    pricing: Pricing,
    lines: u64,
    /// Lines that are not blank.
    requests: u64,
    /// The first line that costs nothing.
    free_line: Option<u64>,
    groups: Vec<GroupBuilder>,
    /// Each with the first line that names it.
    named: BTreeMap<ObjectReference, u64>,
    fault: Option<Fault>,
}

/// A line that was read.
#[derive(Debug)]
pub(super) enum ReadLine {
    /// It costs something.
    Metered(Box<LineDemand>),
    /// It costs nothing.
    Free,
}

/// What a line asks for.
#[derive(Debug)]
pub(super) struct LineDemand {
    operation: &'static Operation,
    demand: Demand,
    /// Tokens of its text, if they were counted.
    text_tokens: Option<u64>,
}

impl ReadLine {
    /// Reads a line.
    pub(super) fn of(line: &[u8]) -> Result<Self, Invalid> {
        Self::read(line, |_, _| None)
    }

    /// Reads a line and counts the tokens of its text, where the tokenizer of its model is
    /// published.
    pub(super) fn counted(line: &[u8], pricing: &Pricing) -> Result<Self, Invalid> {
        Self::read(line, |demand, body| {
            let encoding = pricing.price_of(&demand.model, pricing.at_s())?.tokenizer?;
            count::body_upper(encoding, body, &demand.media.inline, u64::MAX)
        })
    }

    fn read(line: &[u8], count: impl FnOnce(&Demand, &str) -> Option<u64>) -> Result<Self, Invalid> {
        Ok(match InputLine::read(line)? {
            InputLine::Free => Self::Free,
            InputLine::Metered(operation, request, body) => {
                let text_tokens = count(&request.demand, body);
                Self::Metered(Box::new(LineDemand { operation, demand: *request.demand, text_tokens }))
            }
        })
    }
}

/// The lines of one model.
#[derive(Debug)]
struct GroupBuilder {
    model: String,
    image_model: Option<String>,
    end_user: FieldOfLines,
    labels: LabelsOfLines,
    first_line: u64,
    cost: Money,
    input_tokens: u64,
    output_tokens: u64,
    line_cost_max: Money,
    are_stored: bool,
    searching_lines: u64,
    is_plain: bool,
    open_line: Option<u64>,
    bounding: Arc<Price>,
    /// What a line's answer is billed by: of everything the most that a line has.
    bill: Bill,
}

impl Scan {
    /// A scan of a file of which nothing was read yet.
    pub(in crate::proxy) fn new(pricing: Pricing) -> Self {
        Self {
            pricing,
            lines: 0,
            requests: 0,
            free_line: None,
            groups: Vec::new(),
            named: BTreeMap::new(),
            fault: None,
        }
    }

    /// Whether the file can't make a batch, whatever follows.
    pub(in crate::proxy) fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// The number of the next line, which is counted. Blank lines are lines, too.
    pub(in crate::proxy) fn next(&mut self) -> u64 {
        self.lines = self.lines.saturating_add(1);
        self.lines
    }

    /// What lines are priced by.
    pub(super) fn pricing(&self) -> &Pricing {
        &self.pricing
    }

    /// Adds a line that was read.
    pub(super) fn add(&mut self, number: u64, line: Result<ReadLine, Invalid>) {
        if self.has_fault() {
            return;
        }
        self.requests = self.requests.saturating_add(1);
        let (added, is_not_allowed) = match line {
            Ok(ReadLine::Free) => {
                self.free_line.get_or_insert(number);
                (Ok(()), false)
            }
            Ok(ReadLine::Metered(line)) => (self.price(number, *line), true),
            Err(Invalid { message, kind, .. }) => (Err(message), kind == InvalidKind::NotAllowed),
        };
        self.fault = added.err().map(|why| Fault { line: number, why, is_not_allowed });
        if self.requests > LINES_MAX && self.fault.is_none() {
            let why = format!("a batch has at most {LINES_MAX} lines");
            self.fault = Some(Fault { line: number, why, is_not_allowed: false });
        }
    }

    /// Notes a line that is longer than a request may be.
    pub(in crate::proxy) fn too_long(&mut self, number: u64, bytes_max: usize) {
        let why = format!("it is longer than {bytes_max} bytes, the most that a request may have here");
        self.fault.get_or_insert(Fault { line: number, why, is_not_allowed: false });
    }

    /// What is kept of the file.
    pub(super) fn finish(self, is_counted: bool) -> BatchFile {
        let groups = self.groups.into_iter().map(GroupBuilder::build).collect();
        let (version, at_s) = (self.pricing.version(), self.pricing.at_s());
        let lines = (self.requests, self.free_line, is_counted);
        BatchFile::new((version, at_s), lines, groups, self.named, self.fault)
    }

    /// Adds what a line costs at most.
    fn price(
        &mut self,
        number: u64,
        LineDemand { operation, mut demand, text_tokens }: LineDemand,
    ) -> Result<(), String> {
        if demand.stored_prompt || demand.subagents {
            return Err("only OpenAI knows what its stored prompt or its agents cost".to_owned());
        }
        if operation.searches && self.always_searches(&demand.model) {
            demand.tools.web_search = Some(WebSearch::Chat);
        }
        // A batch is served as one, unless it asks for what is dearer than standard.
        demand.tier = demand.tier.filter(|tier| *tier > Tier::Scale).or(Some(Tier::Batch));
        for of in &demand.references {
            self.named.entry(of.clone()).or_insert(number);
        }
        if self.named.len() > NAMED_MAX {
            return Err(format!("the lines up to it name more than {NAMED_MAX} objects"));
        }
        let of_images = models::of_images(&demand);
        let same =
            |group: &&mut GroupBuilder| group.bill.operation == operation && group.model == demand.model;
        let inputs = self.pricing.policy().inputs(&demand, Written::default(), kept(&demand));
        // Nothing is written into a file.
        let inputs = BoundInputs { text_tokens, is_writable: false, ..inputs };
        if let Some(group) = self.groups.iter_mut().find(same) {
            group.join_images(&self.pricing, of_images)?;
            group.add(number, &demand, inputs);
            return Ok(());
        }
        // Their answers don't name the model that has served them.
        if operation.answers == AnswerForm::Images && !self.groups.is_empty() {
            return Err("images of another model than those of the lines before it need a file of their own"
                .to_owned());
        }
        if self.groups.len() == GROUPS_MAX {
            return Err(format!("the lines up to it name more than {GROUPS_MAX} models"));
        }
        let mut group = GroupBuilder::new(&self.pricing, number, operation, &demand, inputs);
        group.add(number, &demand, inputs);
        self.groups.push(group);
        Ok(())
    }

    /// Whether a model searches the web on every request.
    fn always_searches(&self, model: &str) -> bool {
        let known = self.groups.iter().find(|group| group.model == model);
        known.map_or_else(
            || self.pricing.price_of(model, self.pricing.at_s()).is_some_and(|price| price.searches_always),
            |group| group.bounding.searches_always,
        )
    }
}

impl GroupBuilder {
    /// No lines yet of a model.
    fn new(
        pricing: &Pricing,
        first_line: u64,
        operation: &'static Operation,
        demand: &Demand,
        inputs: BoundInputs,
    ) -> Self {
        let (sheet, at_s) = (pricing.sheet(), pricing.at_s());
        let price = pricing.price_of(&demand.model, at_s);
        let image_model = models::of_images(demand).map(str::to_owned);
        let image_price = image_model.as_deref().and_then(|model| image_price(pricing, model));
        let bounding = price.clone().unwrap_or_else(|| sheet.dearest(at_s));
        let bill = Bill {
            operation,
            sheet: Arc::clone(sheet),
            encoding: bounding.tokenizer,
            price,
            image_price,
            tools: ToolDemand::default(),
            sessions: 0,
            sessions_each: 1,
            reused: None,
            requested_tier: Some(Tier::Batch),
            default_tier: Tier::Batch,
            body: None,
            at_s,
            model_tokens: ModelTokens::of(&bounding, demand, inputs),
            reads_more: true,
            cache_12h: false,
            pictures: 0,
            is_uncountable: false,
            writes_svg: false,
            units: demand.units,
            spoken_plain: false,
            heard: 0,
        };
        let (model, end_user) = (demand.model.clone(), FieldOfLines::of(demand.end_user.as_deref()));
        let (cost, line_cost_max) = (Money::ZERO, Money::ZERO);
        Self {
            model,
            image_model,
            end_user,
            labels: LabelsOfLines::of(&demand.labels),
            first_line,
            cost,
            input_tokens: 0,
            output_tokens: 0,
            line_cost_max,
            are_stored: false,
            searching_lines: 0,
            is_plain: true,
            open_line: None,
            bounding,
            bill,
        }
    }

    /// Takes up the model of a line's images. An answer does not say which line it is of, so
    /// lines of one model may name one for images.
    fn join_images(&mut self, pricing: &Pricing, of_images: Option<&str>) -> Result<(), String> {
        if self.image_model.as_deref() == of_images {
            return Ok(());
        }
        let is_uniform = self.bill.operation.answers == AnswerForm::Images;
        match (&self.image_model, of_images) {
            (Some(_), None) if !is_uniform => Ok(()),
            (None, Some(model)) if !is_uniform => {
                self.image_model = Some(model.to_owned());
                self.bill.image_price = image_price(pricing, model);
                Ok(())
            }
            (None | Some(_), None | Some(_)) => {
                Err("lines of its model before it name another model for images, or none: put them into files of their own".to_owned())
            }
        }
    }

    /// Adds the bound of a line.
    fn add(&mut self, number: u64, demand: &Demand, inputs: BoundInputs) {
        let bill = &mut self.bill;
        bill.requested_tier = bill.requested_tier.max(demand.tier);
        let most = bound(&self.bounding, bill.image_price.as_deref(), demand, inputs);
        let cost = if bill.price.is_some() { most.cost } else { Money::ZERO };
        self.cost = Money::from_nano(self.cost.nano().saturating_add(cost.nano()));
        self.line_cost_max = self.line_cost_max.max(cost);
        self.input_tokens = self.input_tokens.saturating_add(most.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(most.output_tokens);
        self.end_user.add(demand.end_user.as_deref());
        self.labels.add(&demand.labels);
        self.are_stored |= demand.stored;
        let tools = &demand.tools;
        let has_tools = tools.loops || tools.web_search.is_some() || tools.image.is_some();
        let is_of_tokens = !has_tools && tools.containers.is_empty() && demand.units == Quantities::default();
        self.is_plain &= is_of_tokens && demand.tier == Some(Tier::Batch);
        let searches = demand.tools.web_search == Some(WebSearch::Chat);
        self.searching_lines = self.searching_lines.saturating_add(u64::from(searches));
        if demand.tools.loops && demand.tools.calls_max.is_none() {
            self.open_line.get_or_insert(number);
        }
        bill.model_tokens = bill.model_tokens.most(&ModelTokens::of(&self.bounding, demand, inputs));
        bill.units = bill.units.most(&demand.units);
        bill.sessions = bill.sessions.max(inputs.sessions());
        bill.pictures = bill.pictures.max(pictures(demand, inputs));
        bill.cache_12h |= demand.cache_12h;
        bill.is_uncountable |= bill::is_uncountable(demand);
        bill.writes_svg |= demand.svg_model.is_some();
        join(&mut bill.tools, &demand.tools);
    }

    fn build(self) -> Group {
        let bound =
            Bound { cost: self.cost, input_tokens: self.input_tokens, output_tokens: self.output_tokens };
        Group {
            model: self.model,
            image_model: self.image_model,
            end_user: self.end_user,
            labels: self.labels,
            first_line: self.first_line,
            bound: bound.into(),
            line_cost_max_nano: self.line_cost_max.nano(),
            are_stored: self.are_stored,
            searching_lines: self.searching_lines,
            is_plain: self.is_plain,
            open_line: self.open_line,
            terms: Terms::of(&self.bill, KeptContainers::default(), false),
        }
    }
}

#[cfg(test)]
mod tests;
