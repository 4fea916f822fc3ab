//! Prepares a metered request: reads, prices, admits and rewrites it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::domain::demand::{ContainerDemand, WebSearch};
use crate::domain::usage::ContainerMemory;
use crate::domain::{Demand, KeptContainers, ObjectKind, ObjectReference};
use crate::guard::{RateCheck, Standing};
use crate::ledger::entry::Attribution;
use crate::pricing::bound::{self, BoundInputs, ModelTokens, pictures};
use crate::pricing::plan::{Policy, Written};
use crate::pricing::sheet::Price;
use crate::pricing::turns::Turns;
use crate::protocol::multipart;
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::request::{Edit, Invalid, InvalidKind, Request};
use crate::proxy::admit::{Admitted, Candidate, admit};
use crate::proxy::auth::Caller;
use crate::proxy::background::{Beginning, Settler, Terms};
use crate::proxy::bill::{self, Bill};
use crate::proxy::count::Counter;
use crate::proxy::exchange::{MeteredExchange, StreamUsage};
use crate::proxy::headers::{self, GuardHeaders};
use crate::proxy::in_flight::InFlight;
use crate::proxy::models::{self, Prices};
use crate::proxy::pace::pace;
use crate::proxy::reading::Reading;
use crate::proxy::record::{Recording, RequestSummary};
use crate::proxy::refuse::{Levers, Named, Refusal};
use crate::proxy::tap::Cuts;
use crate::proxy::{Content, Proxy, Rules, rate_headers, route};

/// The output tokens for each choice that the guard wrote into the request.
const OUTPUT_BOUND: HeaderName = HeaderName::from_static("x-spendguard-output-bound");
const CLAMPED_OUTPUT: HeaderName = HeaderName::from_static("x-spendguard-clamped-output-tokens");
const CLAMPED_CALLS: HeaderName = HeaderName::from_static("x-spendguard-clamped-tool-calls");

/// A metered request that has been admitted.
pub(super) struct AdmittedRequest {
    pub(super) body: Bytes,
    pub(super) content: Content,
    pub(super) exchange: Box<MeteredExchange>,
    /// The output bound that was written into it, or that its sender has to write.
    pub(super) output_max: Option<u64>,
    /// Whether a limit or credit bounds what it may cost.
    pub(super) is_capped: bool,
}

/// A request that was read, and how it is sent on.
pub(super) struct Parsed {
    pub(super) request: Request,
    pub(super) content: Content,
    pub(super) body: Bytes,
}

impl Proxy {
    /// Reads, prices and admits a metered request.
    pub(super) async fn prepare(
        &self,
        rules: &Rules,
        operation: &'static Operation,
        head: &http::request::Parts,
        body: Bytes,
        caller: &Caller,
        in_flight: &mut InFlight,
    ) -> Result<AdmittedRequest, Refusal> {
        let (request, content) = self.parse(operation, &head.headers, &body, caller).await?;
        let parsed = Parsed { request, content, body };
        self.prepare_parsed(rules, operation, head, parsed, caller, in_flight).await
    }

    /// Prices and admits a metered request that was read.
    pub(super) async fn prepare_parsed(
        &self,
        rules: &Rules,
        operation: &'static Operation,
        head: &http::request::Parts,
        parsed: Parsed,
        caller: &Caller,
        in_flight: &mut InFlight,
    ) -> Result<AdmittedRequest, Refusal> {
        let now_s = self.guard.clock().now_s();
        let Parsed { request: mut parsed, content, body } = parsed;
        let demand = &mut parsed.demand;
        in_flight.asks(operation, models::requested(demand), caller);
        let priced = self.understand(rules, operation, demand, caller, now_s)?;
        let GuardHeaders { max_cost, tags, cost: wants_cost } = headers::guard_headers(&head.headers)?;
        let tags = rules.tags.tags(tags, &head.headers, &demand.labels);
        let attribution = Arc::new(self.attribution(caller, operation.path, demand, tags, priced.as_deref()));
        let standing = self.guard.standing(&attribution, max_cost);
        models::refuse_unknown(rules, demand, &standing)?;
        let (price, image_price) = models::prices(rules, demand, priced, standing.left, now_s)?;
        let bounding = price.clone().unwrap_or_else(|| rules.sheet.dearest(now_s));
        let written = written(rules.admit.policy, operation, &standing, (&bounding, demand));
        // Before anything is looked up, so that made-up ids are paced as well.
        let rate_check = self.guard.pace_request(&attribution).await?;
        self.check_named(&demand.references, Named::InBody, &Self::reach(rules, caller)).await?;
        let reading = Reading::of(self.guard.objects(), &rules.sheet, (demand, price.as_deref()), now_s);
        let kept = reading.size();
        self.find_containers(demand, kept.containers.largest);
        let mut candidate = Candidate {
            attribution,
            demand,
            price: &bounding,
            priced: price.is_some(),
            image_price: image_price.as_deref(),
            price_version: Arc::clone(rules.sheet.version()),
            client_cap: max_cost,
            standing,
            operation,
            body: &body,
            calls_open: written.tool_calls.is_some(),
            inputs: rules.admit.policy.inputs(demand, written, kept),
            encoding: bounding.tokenizer,
            counter: Counter {
                guard: &self.guard,
                upstream: self.upstream(rules),
                authorization: &caller.authorization,
            },
            permit: self.permit(rules, &head.headers, caller),
        };
        let rate_check = pace(&self.guard, rules.admit, &mut candidate, rate_check).await?;
        let admitted = self.admit(rules, &candidate).await?;
        let output_max = admitted.clamped_output.or(candidate.inputs.output_max);
        let cuts = cuts(&standing, (&bounding, demand), &admitted);
        let mut reservation = admitted.reservation;
        let reading = reading.held(&bounding, demand, admitted.inputs);
        let summary = RequestSummary { operation, demand, drawn_max: admitted.inputs.tool_calls };
        let recording = Recording::begin(&self.guard, &caller.key, summary, reading, &reservation).await?;
        let extra = extra_headers(&rate_check, written, output_max, admitted.clamped_calls);
        reservation.pace(rate_check);
        let prices = (price.clone(), image_price.clone());
        let bill = Self::bill(rules, &candidate, admitted.inputs, prices, now_s);
        let background = self.background(rules, demand, (&bill, kept.containers), caller);
        let tool_calls_max = admitted.clamped_calls.or(written.tool_calls);
        let edit = Edit { include_usage: parsed.wants_usage_injected(), output_max, tool_calls_max };
        let body = parsed.rewrite(&body, &edit).map_or(body, Bytes::from);
        let (usage, is_capped) = (stream_usage(&edit, wants_cost), standing.is_capped());
        let exchange = MeteredExchange { reservation, bill, usage, cuts, extra, recording, background };
        Ok(AdmittedRequest { body, content, exchange: Box::new(exchange), output_max, is_capped })
    }

    /// A body that names the deployment of its path as its model.
    pub(super) async fn with_deployment(
        &self,
        operation: &'static Operation,
        headers: &HeaderMap,
        body: &Bytes,
        named: String,
    ) -> Result<Bytes, Refusal> {
        let form = form_boundary(headers)?.filter(|_| operation.takes_forms());
        let with = move |body: &Bytes| match form {
            Some(boundary) => Ok(route::form_with_deployment(body, &boundary, &named)),
            None => route::with_deployment(body, &named),
        };
        self.guard.parsed(body, with).await
    }

    /// Reads a body, in the form that its operation takes, and returns how it is sent on.
    async fn parse(
        &self,
        operation: &'static Operation,
        headers: &HeaderMap,
        body: &Bytes,
        caller: &Caller,
    ) -> Result<(Request, Content), Refusal> {
        let form = if operation.takes_forms() { form_boundary(headers)? } else { None };
        let content = if form.is_some() { Content::AsItCame } else { Content::Json };
        let read = move |body: &Bytes| match form {
            Some(boundary) => operation.read_form(body, &boundary).unwrap_or_else(|| operation.read(body)),
            None => operation.read(body),
        };
        let parsed = self.guard.parsed(body, read).await;
        let parsed = parsed.map_err(refuse_invalid)?;
        if parsed.demand.background {
            self.guard.may_begin_job(&caller.key.id)?;
        }
        Ok((parsed, content))
    }

    /// What an admitted request becomes if it goes on in the background.
    fn background(
        &self,
        rules: &Rules,
        demand: &Demand,
        (bill, kept): (&Bill, KeptContainers),
        caller: &Caller,
    ) -> Option<Box<Beginning>> {
        demand.background.then(|| {
            let terms = Box::new(Terms::of(bill, kept, !caller.key.pass_through));
            Box::new(Beginning { terms, settler: Settler::new(&self.guard, rules) })
        })
    }

    /// Finds the price of a request's model, adds what the request implies without saying
    /// it, and checks that the caller may use its models.
    fn understand(
        &self,
        rules: &Rules,
        operation: &'static Operation,
        demand: &mut Demand,
        caller: &Caller,
        now_s: i64,
    ) -> Result<Option<Arc<Price>>, Refusal> {
        let priced = rules.sheet.price_of(&demand.model, now_s, rules.unknown_model);
        if operation.searches && priced.as_ref().is_some_and(|price| price.searches_always) {
            demand.tools.web_search = Some(WebSearch::Chat);
        }
        models::fill_stored_prompt(demand);
        self.check_models(rules, caller, demand, priced.as_deref())?;
        Ok(priced)
    }

    /// Collects all that decides the cost of an admitted request.
    fn bill(
        rules: &Rules,
        candidate: &Candidate<'_>,
        inputs: BoundInputs,
        (price, image_price): Prices,
        now_s: i64,
    ) -> Bill {
        let Candidate { operation, demand, encoding, price: bounding, body, .. } = *candidate;
        Bill {
            operation,
            sheet: Arc::clone(&rules.sheet),
            price,
            image_price,
            tools: demand.tools.clone(),
            sessions: inputs.sessions(),
            sessions_each: 1,
            reused: None,
            requested_tier: demand.tier,
            default_tier: rules.admit.policy.project_tier,
            encoding,
            body: bill::kept(body),
            at_s: now_s,
            model_tokens: ModelTokens::of(bounding, demand, inputs),
            reads_more: reads_more(demand),
            cache_12h: demand.cache_12h,
            pictures: pictures(demand, inputs),
            is_uncountable: bill::is_uncountable(demand),
            writes_svg: demand.svg_model.is_some(),
            units: demand.units,
            spoken_plain: demand.speech.is_some_and(|speech| speech.is_plain),
            heard: demand.transcript.map_or(0, |_| bound::audio_tokens(demand)),
        }
    }

    /// Adds the known memory of the containers that a request names to its tools; `kept`
    /// is the largest memory of those in the context that upstream keeps.
    fn find_containers(&self, demand: &mut Demand, kept: Option<ContainerMemory>) {
        let lookup = |id: &str| self.guard.objects().lookup(ObjectKind::Container, id);
        let is_container = |of: &&ObjectReference| of.kind == ObjectKind::Container;
        let named = demand.references.iter().filter(is_container);
        let named = named.map(|of| lookup(&of.id).map_or(ContainerMemory::G64, |known| known.memory_max()));
        demand.tools.context_container = named.max().max(kept);
        for container in &mut demand.tools.containers {
            let ContainerDemand::Existing(id) = container else { continue };
            if let Some(memory) = lookup(id).and_then(|known| known.container_memory) {
                *container = ContainerDemand::Found(memory);
            }
        }
    }

    async fn admit(&self, rules: &Rules, candidate: &Candidate<'_>) -> Result<Admitted, Refusal> {
        let admitted = admit(&self.guard, rules.admit, candidate).await;
        let levers = Levers::of(candidate.operation, candidate.demand);
        let admitted = admitted.map_err(|refusal| refusal.with_levers(levers))?;
        if !candidate.priced {
            self.guard.metrics().unpriced();
        }
        Ok(admitted)
    }

    pub(super) fn attribution(
        &self,
        caller: &Caller,
        endpoint: &'static str,
        demand: &Demand,
        tags: BTreeMap<String, String>,
        price: Option<&Price>,
    ) -> Attribution {
        Attribution {
            project: Arc::clone(&caller.key.project),
            project_name: self.guard.ring().project_name(&caller.key.project),
            key: Arc::clone(&caller.key.id),
            key_name: Arc::clone(&caller.key.name),
            end_user: demand.end_user.as_deref().map(Into::into),
            tags: Arc::new(tags),
            endpoint: endpoint.into(),
            model: models::requested(demand).into(),
            priced_as: price.map(|price| Arc::clone(&price.id)),
            image_model: models::of_images(demand).map(Into::into),
        }
    }
}

/// What the client gets of the usage of a stream. Where the guard has asked for it, that is nothing.
const fn stream_usage(edit: &Edit, wants_cost: bool) -> StreamUsage {
    match (edit.include_usage, wants_cost) {
        (true, _) => StreamUsage::Hidden,
        (false, true) => StreamUsage::Priced,
        (false, false) => StreamUsage::AsSent,
    }
}

/// The headers of the answer about rates, and about the bounds that the request was sent
/// with: the output bound, and the output and hosted calls that it was clamped to in
/// addition to those `written` into it.
fn extra_headers(
    rate_check: &RateCheck,
    written: Written,
    output: Option<u64>,
    calls: Option<u64>,
) -> HeaderMap {
    let mut headers = rate_headers(rate_check);
    let clamped = output.filter(|_| output != written.output_max);
    let named = [(OUTPUT_BOUND, output), (CLAMPED_OUTPUT, clamped), (CLAMPED_CALLS, calls)].into_iter();
    headers.extend(named.filter_map(|(name, value)| Some((name, HeaderValue::from(value?)))));
    headers
}

/// The boundary of a form, by the one header that names its type; `None` if it is no form.
pub(super) fn form_boundary(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (first, more) = (types.next(), types.next());
    let Some(found) = first.and_then(|kind| multipart::boundary(kind.to_str().ok()?)) else {
        return Ok(None);
    };
    match found {
        Ok(boundary) if more.is_none() => Ok(Some(boundary.to_owned())),
        Ok(_) => Err(Refusal::Invalid("More than one Content-Type header was sent.".to_owned(), None)),
        Err(error) => {
            let message = format!("We could not read the form in the body of your request: {error}.");
            Err(Refusal::Invalid(message, None))
        }
    }
}

/// The bounds that are written into a request under a cap.
fn written(
    policy: Policy,
    operation: &Operation,
    standing: &Standing,
    (price, demand): (&Price, &Demand),
) -> Written {
    if !standing.is_capped() {
        return Written::default();
    }
    policy.written(price, demand, operation.output_field.is_some())
}

/// Where a stream is cut, as its hold allows no more.
fn cuts(standing: &Standing, (price, demand): (&Price, &Demand), admitted: &Admitted) -> Cuts {
    let inputs = &admitted.inputs;
    // An answer of a model without a maximum may outgrow what was held for it.
    let is_open = price.max_output_tokens.is_none() && demand.output_max.is_none();
    let hosted = standing.is_capped() && demand.tools.loops;
    Cuts {
        output_tokens: (standing.left.cost.is_some() && is_open)
            .then(|| ModelTokens::of(price, demand, *inputs).output()),
        hosted_calls: hosted.then_some(inputs.tool_calls),
        turns: if hosted { Turns::of(price, demand, *inputs) } else { None },
    }
}

fn reads_more(demand: &Demand) -> bool {
    demand.server_context
        || demand.compacted_at.is_some()
        || demand.tools.loops
        || demand.tools.web_search.is_some()
        || !demand.references.is_empty()
        || !demand.media.is_empty()
}

pub(super) fn refuse_invalid(invalid: Invalid) -> Refusal {
    match invalid.kind {
        InvalidKind::Malformed => Refusal::Invalid(invalid.message, invalid.param),
        InvalidKind::NotAllowed => Refusal::FieldNotAllowed(invalid.message, invalid.param),
    }
}
