//! Scans the file of a batch, line by line as it passes, for the most that the batch can cost.
//!
//! Memory has one line at a time and a sum for each model. A line that can't be priced does not
//! stop the file: it is an object like any other until a batch is made of it, which is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::demand::{Bound, ContainerDemand, Tier, ToolDemand, WebSearch};
use crate::domain::model::ANY_IMAGE;
use crate::domain::usage::ContainerMemory;
use crate::domain::{Demand, KeptContainers, KeptSize, Money, ObjectReference};
use crate::pricing::bound::{BoundInputs, ModelTokens, bound, pictures};
use crate::pricing::count;
use crate::pricing::plan::Written;
use crate::pricing::sheet::Price;
use crate::protocol::openai::batch::{InputLine, LINES_MAX};
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::{Invalid, InvalidKind};
use crate::proxy::background::Terms;
use crate::proxy::batches::file::{BatchFile, EndUser, Fault, Group};
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
    sums: Vec<Sum>,
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
                Self::Metered(Box::new(LineDemand { operation, demand: request.demand, text_tokens }))
            }
        })
    }
}

/// The lines of one model.
#[derive(Debug)]
struct Sum {
    model: String,
    image_model: Option<String>,
    end_user: EndUser,
    first_line: u64,
    lines: u64,
    cost: Money,
    input_tokens: u64,
    output_tokens: u64,
    line_cost_max: Money,
    are_stored: bool,
    searching_lines: u64,
    open_line: Option<u64>,
    bounding: Arc<Price>,
    /// What a line's answer is billed by: of everything the most that a line has.
    bill: Bill,
}

impl Scan {
    /// A scan of a file of which nothing was read yet.
    pub(in crate::proxy) fn new(pricing: Pricing) -> Self {
        Self { pricing, lines: 0, sums: Vec::new(), named: BTreeMap::new(), fault: None }
    }

    /// Whether the file can't make a batch, whatever follows.
    pub(in crate::proxy) fn is_over(&self) -> bool {
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
        if self.is_over() {
            return;
        }
        let (added, is_not_allowed) = match line {
            Ok(ReadLine::Free) => (Ok(()), false),
            Ok(ReadLine::Metered(line)) => (self.price(number, *line), true),
            Err(Invalid { message, kind, .. }) => (Err(message), kind == InvalidKind::NotAllowed),
        };
        self.fault = added.err().map(|why| Fault { line: number, why, is_not_allowed });
        if self.lines > LINES_MAX && self.fault.is_none() {
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
        let groups = self.sums.into_iter().map(Sum::group).collect();
        let (version, at_s) = (self.pricing.version(), self.pricing.at_s());
        let lines = (self.lines, is_counted);
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
        let same = |sum: &&mut Sum| {
            sum.bill.operation == operation
                && sum.model == demand.model
                && sum.image_model.as_deref() == of_images
        };
        let inputs = self.pricing.policy().inputs(&demand, Written::default(), kept(&demand));
        // Nothing is written into a file.
        let inputs = BoundInputs { text_tokens, is_writable: false, ..inputs };
        if let Some(sum) = self.sums.iter_mut().find(same) {
            sum.add(number, &demand, inputs);
            return Ok(());
        }
        if self.sums.len() == GROUPS_MAX {
            return Err(format!("the lines up to it name more than {GROUPS_MAX} models"));
        }
        let mut sum = Sum::new(&self.pricing, number, operation, &demand, inputs);
        sum.add(number, &demand, inputs);
        self.sums.push(sum);
        Ok(())
    }
}

impl Scan {
    /// Whether a model searches the web on every request.
    fn always_searches(&self, model: &str) -> bool {
        let known = self.sums.iter().find(|sum| sum.model == model);
        known.map_or_else(
            || self.pricing.price_of(model, self.pricing.at_s()).is_some_and(|price| price.searches_always),
            |sum| sum.bounding.searches_always,
        )
    }
}

impl Sum {
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
        let image_price = image_model.as_deref().and_then(|model| {
            let unnamed = model == ANY_IMAGE;
            if unnamed { sheet.dearest_image_model(at_s) } else { pricing.price_of(model, at_s) }
        });
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
        let (model, end_user) = (demand.model.clone(), EndUser::of(demand.end_user.as_deref()));
        let (cost, line_cost_max) = (Money::ZERO, Money::ZERO);
        Self {
            model,
            image_model,
            end_user,
            first_line,
            lines: 0,
            cost,
            input_tokens: 0,
            output_tokens: 0,
            line_cost_max,
            are_stored: false,
            searching_lines: 0,
            open_line: None,
            bounding,
            bill,
        }
    }

    /// Adds the bound of a line.
    fn add(&mut self, number: u64, demand: &Demand, inputs: BoundInputs) {
        let bill = &mut self.bill;
        let most = bound(&self.bounding, bill.image_price.as_deref(), demand, inputs);
        let cost = if bill.price.is_some() { most.cost } else { Money::ZERO };
        self.lines = self.lines.saturating_add(1);
        self.cost = Money::from_nano(self.cost.nano().saturating_add(cost.nano()));
        self.line_cost_max = self.line_cost_max.max(cost);
        self.input_tokens = self.input_tokens.saturating_add(most.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(most.output_tokens);
        self.end_user.add(demand.end_user.as_deref());
        self.are_stored |= demand.stored;
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

    fn group(self) -> Group {
        let bound =
            Bound { cost: self.cost, input_tokens: self.input_tokens, output_tokens: self.output_tokens };
        Group {
            model: self.model,
            image_model: self.image_model,
            end_user: self.end_user,
            first_line: self.first_line,
            lines: self.lines,
            bound: bound.into(),
            line_cost_max_nano: self.line_cost_max.nano(),
            are_stored: self.are_stored,
            searching_lines: self.searching_lines,
            open_line: self.open_line,
            terms: Terms::of(&self.bill, KeptContainers::default(), false),
        }
    }
}

/// What upstream adds to a line from its own store: nothing where the line names no context,
/// and otherwise a context of unknown size, since other lines may add to it meanwhile.
fn kept(demand: &Demand) -> KeptSize {
    let names_context = demand.server_context || demand.references.iter().any(|of| of.kind.is_context());
    let size = (!names_context).then_some(0);
    let containers = if names_context { KeptContainers::default() } else { KeptContainers::NONE };
    KeptSize { tokens: size, pictures: size, containers }
}

/// Adds the tools of a line to those that any line may have run.
fn join(tools: &mut ToolDemand, of: &ToolDemand) {
    // Of two kinds of search, the one that is not named costs as the dearer.
    tools.web_search = match (tools.web_search, of.web_search) {
        (known, None) => known,
        (None, found) => found,
        (known, found) if known == found => known,
        (Some(_), Some(_)) => Some(WebSearch::Preview),
    };
    if of.containers.len() > tools.containers.len() {
        tools.containers.resize(of.containers.len(), ContainerDemand::Made(ContainerMemory::default()));
    }
    for (known, found) in tools.containers.iter_mut().zip(&of.containers) {
        if found.memory_max() > known.memory_max() {
            *known = found.clone();
        }
    }
    tools.context_container = tools.context_container.max(of.context_container);
    if tools.image.is_none() {
        tools.image.clone_from(&of.image);
    }
    tools.loops |= of.loops;
}
