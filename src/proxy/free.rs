//! Unmetered requests: checks the owners of their objects, and records the changes
//! of objects.

mod batches;
mod containers;
mod effect;
mod learned;
mod responses;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};

use crate::domain::demand::Bound;
use crate::domain::usage::ContainerMemory;
use crate::domain::{Demand, KeptContext, Money, ObjectKind, ObjectReference};
use crate::guard::objects::{HeldFor, Reach, Turn, TurnEnd};
use crate::guard::{Reservation, ReserveRequest};
use crate::protocol::openai::{endpoint, request};
use crate::proxy::accrual::{self, Accrual};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::background::Settler;
use crate::proxy::batches::BatchFile;
use crate::proxy::body::may_be_json;
use crate::proxy::exchange::{self, NotAccepted};
use crate::proxy::headers::{self, GuardHeaders};
use crate::proxy::in_flight::InFlight;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::record::made_by;
use crate::proxy::refuse::{Named, Refusal, bounded};
use crate::proxy::{Content, Failed, Proxy, Rules, lists, outgoing, rate_headers};
use crate::store::objects::ObjectChange;
use crate::upstream::{AnswerBody, SendError};

use self::containers::ContainerUse;
use self::effect::{Effect, effect_on};

/// A free request that may be sent.
#[derive(Debug, Default)]
pub(super) struct Errand {
    effect: Effect,
    /// The conversation that it adds to.
    turn: Option<Turn>,
    /// The container that it keeps alive.
    container: Option<ContainerUse>,
    /// The context that the items in its body add.
    items: KeptContext,
    /// What a scan has found in the file that it uploads.
    pub(super) scanned: Option<BatchFile>,
    /// Whether the last usage of a stream gets its cost.
    wants_cost: bool,
}

/// A free request that was held for.
pub(super) struct HeldErrand {
    pub(super) reservation: Reservation,
    /// Headers about rates.
    rates: HeaderMap,
    pub(super) errand: Errand,
}

impl Proxy {
    /// The projects whose objects a request may name. For a client's own key,
    /// upstream itself checks the access.
    pub(super) fn reach(rules: &Rules, caller: &Caller) -> Reach {
        if rules.shared_objects || caller.key.pass_through {
            Reach::All
        } else {
            Reach::Project(Arc::clone(&caller.key.project))
        }
    }

    /// Refuses a request that names an object it may not reach.
    pub(super) async fn check_named(
        &self,
        named: &[ObjectReference],
        place: Named,
        reach: &Reach,
    ) -> Result<(), Refusal> {
        if named.is_empty() {
            return Ok(());
        }
        match self.guard.check_objects(named, reach).await {
            Ok(None) => Ok(()),
            Ok(Some(at)) => Err(named
                .get(at)
                .cloned()
                .map_or(Refusal::LedgerUnavailable, |of| Refusal::ObjectNotFound(of, place))),
            Err(error) => {
                tracing::warn!(
                    event = "object_index_unreadable", %error,
                    "the index of objects can't be read"
                );
                Err(Refusal::LedgerUnavailable)
            }
        }
    }

    /// Forwards an unmetered request: it counts as a request, and costs at most the
    /// fee for keeping a container alive. Where it changes anything, it goes on without its client.
    pub(super) async fn free(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        (head, body): (http::request::Parts, Bytes),
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let held = self.hold_free(rules, (&head, &body), &caller, in_flight.endpoint).await;
        let held = match held {
            Ok(held) => held,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        in_flight.admitted(held.reservation.hold());
        let outgoing = outgoing(rules, head, body, &caller, Content::AsItCame, &in_flight);
        let list = lists::ListRequest::of(&outgoing);
        let is_read =
            matches!(outgoing.method, Method::GET | Method::HEAD) && held.errand.container.is_none();
        let (shard, rules) = (Arc::clone(self), Arc::clone(rules));
        let exchange = Box::pin(async move {
            let sending = outgoing.send(shard.upstream(&rules));
            shard.run_errand(&rules, sending, held, (&caller, &list), in_flight).await
        });
        if is_read { exchange.await } else { self.to_its_end(exchange).await }
    }

    /// Sends an unmetered request that was held for, as `sending` does, and applies its effect.
    pub(super) async fn run_errand(
        &self,
        rules: &Rules,
        sending: impl Future<Output = Result<Response<AnswerBody>, SendError>>,
        HeldErrand { reservation, rates, mut errand }: HeldErrand,
        (caller, list): (&Caller, &lists::ListRequest),
        in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let fee = async || match &mut errand.container {
            Some(used) => self.charge_use(used, caller, rules.sheet.fees()).await,
            None => Money::ZERO,
        };
        let idle = rules.answer_idle;
        let sent = exchange::unbilled(sending, (reservation, fee), in_flight, idle).await;
        self.remember(caller, sent.is_ok()).await;
        let NotAccepted { answer, may_be_served } = match sent {
            Ok((answer, in_flight)) => {
                return self.conclude(rules, errand, (answer, rates), (caller, list), in_flight).await;
            }
            Err(not_accepted) => not_accepted,
        };
        if may_be_served {
            self.presume(rules, &mut errand, caller).await;
        } else {
            errand.abandon().await;
        }
        answer.map(|mut answer| {
            answer.headers_mut().extend(rates);
            answer
        })
    }

    /// Holds what an unmetered request costs at most, after its access was checked.
    pub(super) async fn hold_free(
        &self,
        rules: &Rules,
        (head, body): (&http::request::Parts, &Bytes),
        caller: &Caller,
        endpoint: &'static str,
    ) -> Result<HeldErrand, Refusal> {
        let GuardHeaders { tags, max_cost, cost } = headers::guard_headers(&head.headers)?;
        let demand = Demand::default();
        let tags = rules.tags.tags(tags, &head.headers, &demand.labels);
        let attribution = Arc::new(self.attribution(caller, endpoint, &demand, tags, None));
        let rate_check = self.guard.pace(&attribution).await?;
        let mut errand = self.errand(rules, head, body, caller).await?;
        errand.wants_cost = cost;
        let fee = errand.container.as_ref().map_or(Money::ZERO, |used| used.fee_max);
        let request = ReserveRequest {
            client_cap: max_cost.filter(|_| fee > Money::ZERO),
            ..ReserveRequest::new(attribution, Bound { cost: fee, ..Bound::default() })
        };
        let permit = self.permit(rules, &head.headers, caller);
        let mut reservation = match permit.reserve(request, rules.admit.hold_wait).await {
            Ok(reservation) => reservation,
            Err(refusal) => {
                errand.abandon().await;
                return Err(refusal);
            }
        };
        let rates = rate_headers(&rate_check);
        reservation.pace(rate_check);
        Ok(HeldErrand { reservation, rates, errand })
    }

    /// Applies what is certain of an unmetered request that upstream may have served, though no
    /// answer says so.
    async fn presume(&self, rules: &Rules, errand: &mut Errand, caller: &Caller) {
        if let Some(used) = &mut errand.container {
            self.presume_use(used, caller, rules.sheet.fees()).await;
        }
        if let Effect::Removes(of) = &errand.effect {
            Accrual::new(&self.guard, rules).look_soon(&of.id).await;
        }
    }

    /// The effect of a free request on objects, after its access was checked.
    async fn errand(
        &self,
        rules: &Rules,
        head: &http::request::Parts,
        body: &Bytes,
        caller: &Caller,
    ) -> Result<Errand, Refusal> {
        let (path, method) = (head.uri.path(), &head.method);
        let reach = Self::reach(rules, caller);
        let mut errand = Errand::default();
        let mut named = Vec::new();
        if *method == Method::POST {
            named = self.named_in(&head.headers, body).await?;
            self.check_named(&named, Named::InBody, &reach).await?;
        }
        let Some(place) = endpoint::place(path) else {
            errand.effect = self.model_effect(rules, (method, path), caller)?;
            return Ok(errand);
        };
        if *method == Method::POST && place.kind == ObjectKind::Conversation {
            errand.items = self.items_of(&head.headers, body, &named).await?;
        }
        let Some(id) = place.id else {
            errand.effect = match *method {
                Method::POST => Effect::Makes(place.kind),
                _ if reach == Reach::All => Effect::None,
                Method::HEAD => Effect::AsksForList,
                _ => Effect::Lists(place.kind),
            };
            return Ok(errand);
        };
        let of = ObjectReference { kind: place.kind, id: id.to_owned() };
        self.check_named(std::slice::from_ref(&of), Named::InPath, &reach).await?;
        let is_whole = place.below.is_empty();
        if *method == Method::DELETE && of.kind == ObjectKind::Response && is_whole {
            self.see_before_deletion(rules, caller, id).await;
        }
        errand.effect = effect_on(method, place.below, &of);
        if *method == Method::POST && place.kind == ObjectKind::Conversation && !is_whole {
            let maker = || made_by(&caller.key, self.guard.clock().now_s());
            let begun = self
                .guard
                .begin_turn(id, (HeldFor::AnySize, Some(ContainerMemory::G64)), errand.items.clone(), maker)
                .await;
            errand.turn = Some(begun.map_err(Refusal::from)?);
        }
        if *method == Method::GET && matches!(errand.effect, Effect::ShowsItems) {
            // An item ran in one of the containers of the object that it belongs to.
            errand.items.containers = self.containers_of(std::slice::from_ref(&of));
        }
        if place.kind == ObjectKind::Container && !(is_whole && *method == Method::DELETE) {
            errand.container = Some(self.use_container(of, method, caller, rules.sheet.fees()));
        }
        Ok(errand)
    }

    /// The objects that a body names, if it is JSON. A form is read as it passes.
    async fn named_in(&self, headers: &HeaderMap, body: &Bytes) -> Result<Vec<ObjectReference>, Refusal> {
        if !may_be_json(headers, body) {
            return Ok(Vec::new());
        }
        self.guard.parsed(body, |body| request::object_ids(body)).await.map_err(refuse_invalid)
    }

    /// The context that a body with these objects adds to a conversation; of a body that
    /// isn't JSON it is unknown.
    async fn items_of(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        named: &[ObjectReference],
    ) -> Result<KeptContext, Refusal> {
        if body.is_empty() {
            return Ok(KeptContext::nothing());
        }
        if !may_be_json(headers, body) {
            return Ok(KeptContext::default());
        }
        let kept = self.guard.parsed(body, |body| request::kept_items(body)).await;
        let with_containers = |kept| KeptContext { containers: self.containers_of(named), ..kept };
        kept.map(with_containers).map_err(refuse_invalid)
    }

    fn model_effect(
        &self,
        rules: &Rules,
        (method, path): (&Method, &str),
        caller: &Caller,
    ) -> Result<Effect, Refusal> {
        let path = endpoint::canonical(path);
        let Some(rest) = path.strip_prefix("/models") else { return Ok(Effect::None) };
        let Some(model) = rest.strip_prefix('/') else {
            return Ok(if *method == Method::GET { Effect::ListsModels } else { Effect::None });
        };
        // A fine-tuned model is the organization's: none of its keys has made it.
        let may_delete = *method != Method::DELETE || Self::reach(rules, caller) == Reach::All;
        if may_delete && self.may_use(rules, caller, model) {
            return Ok(Effect::None);
        }
        Err(Refusal::NoSuchModel(bounded(model)))
    }

    /// Applies the effect of a request that upstream accepted, and returns its answer.
    async fn conclude(
        &self,
        rules: &Rules,
        errand: Errand,
        (answer, rates): (Response<AnswerBody>, HeaderMap),
        (caller, list): (&Caller, &lists::ListRequest),
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        match self.apply(rules, errand, answer, (caller, list)).await {
            Ok(mut answer) => {
                in_flight.ended("ok");
                answer.headers_mut().extend(rates);
                Ok(answer)
            }
            Err(refusal) => Err((refusal, in_flight)),
        }
    }

    async fn apply(
        &self,
        rules: &Rules,
        errand: Errand,
        answer: Response<AnswerBody>,
        (caller, list): (&Caller, &lists::ListRequest),
    ) -> Result<Response<Answer>, Refusal> {
        let Errand { effect, turn, container, items, scanned, wants_cost } = errand;
        if let Some(turn) = turn {
            turn.end(TurnEnd::Unknown).await;
        }
        if let Some(written) = container.and_then(|used| used.written) {
            self.guard.objects_written(written).await;
        }
        match effect {
            Effect::None => Ok(answer.map(Answer::Plain)),
            Effect::Lists(kind) => {
                let reach = Self::reach(rules, caller);
                self.list_of_project(list, kind, answer, &reach, self.upstream(rules)).await
            }
            Effect::AsksForList => {
                let mut answer = answer.map(Answer::Plain);
                answer.headers_mut().remove(header::CONTENT_LENGTH);
                Ok(answer)
            }
            Effect::ListsModels => self.list_of_models(rules, caller, answer).await,
            Effect::ShowsResponse(id) => self.show_response(rules, (id, wants_cost), answer, caller).await,
            Effect::ShowsContainer(id) => self.show_container(rules, &id, answer).await,
            Effect::ShrinksStore(id) => {
                Accrual::new(&self.guard, rules).look_soon(&id).await;
                Ok(answer.map(Answer::Plain))
            }
            Effect::Removes(of) if accrual::kind_of(of.kind).is_some() => {
                self.see_removed(rules, of, answer).await
            }
            Effect::Removes(of) => {
                if of.kind == ObjectKind::Response {
                    let note = "it was deleted at upstream before its end was known";
                    Settler::new(&self.guard, rules).assume(&of.id, note).await;
                }
                // Objects that are not in memory are looked up in the database.
                self.guard.record_objects(vec![ObjectChange::Remove(of)]).await;
                Ok(answer.map(Answer::Plain))
            }
            Effect::Makes(kind) => {
                self.learn_from(answer, |said| self.made(kind, said, caller, (items, scanned))).await
            }
            Effect::CompletesUpload => self.complete_upload(rules, answer, caller).await,
            Effect::ShowsBatch(id) => self.show_batch(rules, id, answer, caller).await,
            Effect::ShowsItems => self.learn_from(answer, |said| self.items(said, caller, &items)).await,
        }
    }
}

impl Errand {
    /// Upstream did nothing.
    async fn abandon(&mut self) {
        if let Some(turn) = self.turn.take() {
            turn.end(TurnEnd::Nothing).await;
        }
    }
}
