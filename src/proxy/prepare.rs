//! Preparing a metered request: understood, priced, admitted, rewritten.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::demand::WebSearch;
use crate::domain::{Demand, ObjectKind};
use crate::guard::Reservation;
use crate::ledger::entry::Attribution;
use crate::openai::endpoint::Metered;
use crate::openai::request::{self, Edit, Invalid, InvalidKind};
use crate::pricing::count;
use crate::pricing::sheet::Price;
use crate::proxy::admit::{Admitted, Candidate, admit};
use crate::proxy::auth::Caller;
use crate::proxy::bill::{self, Bill};
use crate::proxy::exchange::Metering;
use crate::proxy::headers::{self, Wishes};
use crate::proxy::record::Recording;
use crate::proxy::refuse::{Named, Refusal};
use crate::proxy::{Proxy, Rules, bounded, rate_headers};
use crate::throttle::{Paced, Take};

const CLAMPED: HeaderName = HeaderName::from_static("x-spendguard-clamped-output-tokens");
/// The image tool's model if a request names none.
const IMAGE_MODEL: &str = "gpt-image-1";

/// A metered request that has been admitted.
pub(super) struct Prepared {
    pub(super) body: Bytes,
    pub(super) metering: Metering,
}

impl Proxy {
    /// Reads, prices and admits a metered request.
    pub(super) async fn prepare(
        &self,
        rules: &Rules,
        endpoint: Metered,
        head: &http::request::Parts,
        body: Bytes,
        caller: &Caller,
    ) -> Result<Prepared, Refusal> {
        let mut parsed = request::parse(endpoint, &body).map_err(refuse_invalid)?;
        let demand = &mut parsed.demand;
        search_unasked(endpoint, demand);
        let now_s = self.guard.clock().now_s();
        let priced = rules.sheet.find(&demand.model, now_s);
        self.check_model(caller, &demand.model, priced.as_deref())?;
        let Wishes { max_cost, tags } = headers::wishes(&head.headers)?;
        let attribution =
            Arc::new(self.attribution(caller, endpoint.name(), demand, tags, priced.as_deref()));
        let under_cap = max_cost.is_some() || self.guard.needs_price(&attribution);
        let (price, image_price) = prices(rules, demand, priced, under_cap, now_s)?;
        let paced = self.pace(&attribution, take(demand))?;
        let conversation_tokens = self.check_references(rules, caller, demand).await?;
        let (encoding, is_priced) = (count::encoding_of(&demand.model), price.is_some());
        let bounding = price.clone().unwrap_or_else(|| rules.sheet.dearest(now_s));
        let candidate = Candidate {
            attribution,
            demand,
            price: &bounding,
            priced: is_priced,
            image_price: image_price.as_deref(),
            price_version: Arc::clone(rules.sheet.version()),
            client_cap: max_cost,
            body: &body,
            clampable: !matches!(endpoint, Metered::Compact | Metered::Embeddings),
            encoding,
        };
        let Admitted { reservation, clamped } = self.admit(rules, &candidate).await?;
        let recording = self.record((endpoint, demand, conversation_tokens), caller, &reservation).await?;
        let caps_tools = under_cap && demand.tools.loops && demand.tools.calls_max.is_none();
        let unbounded =
            bounding.max_output_tokens.is_none() && demand.output_max.is_none() && clamped.is_none();
        let cut_at_tokens = (under_cap && unbounded).then(|| reservation.hold().bound.output_tokens);
        let extra = extra_headers(&paced, clamped);
        let bill = Bill {
            endpoint,
            sheet: Arc::clone(&rules.sheet),
            price,
            image_price,
            tools: demand.tools.clone(),
            asked_tier: demand.tier,
            default_tier: rules.admit.default_tier,
            encoding,
            body: bill::kept(&body),
            at_s: now_s,
            reads_more: reads_more(demand),
        };
        let hide_usage = parsed.wants_usage_injected();
        let edit = Edit {
            include_usage: hide_usage,
            output_max: clamped,
            tool_calls_max: caps_tools.then_some(rules.admit.tool_calls_max),
        };
        let body = parsed.rewrite(&body, &edit).map_or(body, Bytes::from);
        Ok(Prepared {
            body,
            metering: Metering { reservation, bill, hide_usage, cut_at_tokens, extra, recording },
        })
    }

    /// Refuses a request that names what is not its project's. Returns what is known
    /// of the conversation that it adds to.
    async fn check_references(
        &self,
        rules: &Rules,
        caller: &Caller,
        demand: &Demand,
    ) -> Result<Option<u64>, Refusal> {
        let named = &demand.references;
        self.check_named(named, Named::InBody, &Self::reach(rules, caller)).await?;
        let conversation = named.iter().find(|of| of.kind == ObjectKind::Conversation);
        let known = conversation.and_then(|of| self.guard.objects().lookup(of.kind, &of.id));
        Ok(known.and_then(|known| known.context_tokens))
    }

    async fn record(
        &self,
        (endpoint, demand, held_for): (Metered, &Demand, Option<u64>),
        caller: &Caller,
        reservation: &Reservation,
    ) -> Result<Option<Box<Recording>>, Refusal> {
        Recording::begin(&self.guard, &caller.key, endpoint, (demand, held_for), reservation).await
    }

    /// Whether the key and its project may use a model.
    fn check_model(&self, caller: &Caller, model: &str, priced: Option<&Price>) -> Result<(), Refusal> {
        let priced_as = priced.map(|price| &*price.id);
        let is_allowed =
            caller.key.allows(model) && self.guard.ring().allows(&caller.key.project, model, priced_as);
        if is_allowed { Ok(()) } else { Err(Refusal::ModelNotAllowed(bounded(model))) }
    }

    async fn admit(&self, rules: &Rules, candidate: &Candidate<'_>) -> Result<Admitted, Refusal> {
        let admitted = admit(&self.guard, rules.admit, candidate).await?;
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
            model: demand.model.as_str().into(),
            priced_as: price.map(|price| Arc::clone(&price.id)),
        }
    }

    pub(super) fn pace(&self, of: &Attribution, take: Take) -> Result<Paced, Refusal> {
        let paced = self.guard.throttle().take(of, take).map_err(Refusal::Throttled)?;
        for limit in &paced.would_reject {
            self.guard.metrics().would_have_rejected(&limit.name);
        }
        Ok(paced)
    }
}

/// Some models search the web on every request, asked or not.
fn search_unasked(endpoint: Metered, demand: &mut Demand) {
    if endpoint == Metered::Chat && demand.model.contains("-search-") {
        demand.tools.web_search = Some(WebSearch::Chat);
    }
}

/// What the answer's head says of rates and of a clamped output.
fn extra_headers(paced: &Paced, clamped: Option<u64>) -> HeaderMap {
    let mut headers = rate_headers(paced);
    headers.extend(clamped.map(|tokens| (CLAMPED, HeaderValue::from(tokens))));
    headers
}

fn reads_more(demand: &Demand) -> bool {
    let media = &demand.media;
    let seen = media.images + media.images_low + media.audio_bytes + media.opaque;
    demand.server_context || demand.tools.loops || seen > 0
}

fn refuse_invalid(invalid: Invalid) -> Refusal {
    match invalid.kind {
        InvalidKind::Malformed => Refusal::Invalid(invalid.message, invalid.param),
        InvalidKind::NotAllowed => Refusal::FieldNotAllowed(invalid.message, invalid.param),
    }
}

/// What a request takes from rates, as OpenAI reckons it: a quarter of its
/// bytes, and the output it asks for.
fn take(demand: &Demand) -> Take {
    let text = demand.body_bytes.saturating_sub(demand.media.inline_bytes);
    let input_tokens = text.div_ceil(4);
    let output_tokens = demand.output_max.unwrap_or(0).saturating_mul(demand.choices);
    Take { tokens: input_tokens.saturating_add(output_tokens), input_tokens, output_tokens }
}

type Prices = (Option<Arc<Price>>, Option<Arc<Price>>);

/// The prices of the model and of the image tool's model. Under a dollar cap
/// both must be known.
fn prices(
    rules: &Rules,
    demand: &Demand,
    priced: Option<Arc<Price>>,
    under_cap: bool,
    now_s: i64,
) -> Result<Prices, Refusal> {
    let price = match priced {
        None if rules.unknown_as_dearest => Some(rules.sheet.dearest(now_s)),
        None if under_cap => return Err(Refusal::NotPriced(bounded(&demand.model))),
        found => found,
    };
    let Some(tool) = &demand.tools.image else { return Ok((price, None)) };
    let image_model = tool.model.as_deref().unwrap_or(IMAGE_MODEL);
    let image_price = rules.sheet.find(image_model, now_s);
    if image_price.is_none() && under_cap {
        return Err(Refusal::NotPriced(bounded(image_model)));
    }
    Ok((price, image_price))
}
