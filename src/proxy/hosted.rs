//! Requests that make containers and vector stores, add files to a store, or search one.
//!
//! The first period of what is made is held before anything is sent, and becomes that of a job
//! once upstream has made it. A client that leaves meanwhile changes nothing: the exchange goes on.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{Class, Demand, Money, ObjectKind, ObjectReference};
use crate::guard::objects::put;
use crate::guard::{Ending, RateCheck, Reservation, ReserveRequest};
use crate::ledger::entry::{Attribution, Basis};
use crate::protocol::openai::endpoint::{self, Hosted};
use crate::protocol::openai::hosted::{Container, VectorStore};
use crate::protocol::openai::request::{self, AddedFiles};
use crate::proxy::accrual::{Accrual, Asker, CONTAINER, Terms, VECTOR_STORE};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::bill::Exchange;
use crate::proxy::exchange::{BROKEN_OFF, Unserved, answered, end_unanswered};
use crate::proxy::headers::{self, GuardHeaders};
use crate::proxy::in_flight::InFlight;
use crate::proxy::lists::whole;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::record::{CONTAINER_IDLE_S, made_by};
use crate::proxy::refuse::{Billed, Levers, Named, NoAnswer, Refusal};
use crate::proxy::{Content, Failed, Proxy, Rules, outgoing, rate_headers};

/// What an admitted request does, beside what is held for it.
#[derive(Debug)]
enum Plan {
    /// It makes a container of this memory that lives so long, in seconds, after its last use.
    Container(Terms, (ContainerMemory, i64)),
    /// It makes a vector store.
    Store(Terms),
    /// It adds files to a store.
    Files(Growth),
    /// It searches so often.
    Search(u64),
}

impl Plan {
    /// What a client can change so that it costs less.
    const fn levers(&self) -> Levers {
        match self {
            Self::Container(..) => Levers::CONTAINER,
            Self::Store(_) | Self::Files(_) => Levers::FILES,
            Self::Search(_) => Levers::SEARCH,
        }
    }

    /// Whether a job begins if upstream does it.
    const fn begins_job(&self) -> bool {
        match self {
            Self::Container(..) | Self::Store(_) => true,
            Self::Files(growth) => !growth.is_followed,
            Self::Search(_) => false,
        }
    }
}

/// Files that are added to a store.
#[derive(Debug)]
struct Growth {
    store: ObjectReference,
    terms: Terms,
    /// Whether a job follows the store; else the terms are those of the whole store.
    is_followed: bool,
}

/// An admitted request.
struct Admitted {
    plan: Plan,
    reservation: Reservation,
    rates: HeaderMap,
}

impl Proxy {
    /// Serves a request that is billed by time or by the call.
    pub(super) async fn host(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        hosted: Hosted,
        (head, body): (http::request::Parts, Bytes),
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let admitted =
            match self.admit_hosted(rules, hosted, (&head, &body), &caller, in_flight.endpoint).await {
                Ok(admitted) => admitted,
                Err(refusal) => return Err((refusal, in_flight)),
            };
        in_flight.admitted(admitted.reservation.hold());
        let content = if body.is_empty() { Content::AsItCame } else { Content::Json };
        let outgoing = outgoing(rules, head, body, &caller, content, &in_flight);
        let pass_through = caller.key.pass_through;
        let (shard, rules_then) = (Arc::clone(self), Arc::clone(rules));
        let exchange = async move {
            let answer = shard.exchange_hosted(&rules_then, admitted, outgoing, &caller, in_flight).await;
            let is_accepted = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
            shard.remember(&caller, is_accepted).await;
            answer
        };
        let answer = self.to_its_end(Box::pin(exchange)).await;
        self.concealed(rules, answer, pass_through).await
    }

    async fn admit_hosted(
        &self,
        rules: &Rules,
        hosted: Hosted,
        (head, body): (&http::request::Parts, &Bytes),
        caller: &Caller,
        label: &'static str,
    ) -> Result<Admitted, Refusal> {
        let GuardHeaders { tags, max_cost, .. } = headers::guard_headers(&head.headers)?;
        let demand = Demand::default();
        let tags = rules.tags.tags(tags, &head.headers, &demand.labels);
        let attribution = Arc::new(self.attribution(caller, label, &demand, tags, None));
        let rate_check = self.guard.pace(&attribution).await?;
        let store = self.check_hosted(rules, head, body, caller).await?;
        let (plan, attribution, cost) = match (hosted, store) {
            (Hosted::NewContainer, _) => {
                let asked = self.guard.parsed(body, |body| request::new_container(body)).await;
                let asked = asked.map_err(refuse_invalid)?;
                let life = (asked.memory, asked.idle_s.unwrap_or(CONTAINER_IDLE_S));
                let terms = Terms::container(life, rules.sheet.fees(), self.now_s(), is_own(caller));
                let cost = terms.bound();
                (Plan::Container(terms, life), attribution, cost)
            }
            (Hosted::Search, _) => {
                let searches = self.guard.parsed(body, |body| request::searches(body)).await;
                let searches = searches.map_err(refuse_invalid)?;
                (Plan::Search(searches), attribution, search_fee(rules, searches))
            }
            (Hosted::AddFiles, Some(store)) => {
                let added = self.added(body).await?;
                let (growth, attribution) = self.growth(rules, store, added, (caller, attribution)).await?;
                let cost = growth.terms.bound();
                (Plan::Files(growth), attribution, cost)
            }
            (Hosted::NewStore | Hosted::AddFiles, _) => {
                let added = self.added(body).await?;
                let bytes = (added.bytes_max(), added.bytes_max_each());
                let terms = Terms::vector_store(bytes, rules.sheet.fees(), self.now_s(), is_own(caller));
                let cost = terms.bound();
                (Plan::Store(terms), attribution, cost)
            }
        };
        if plan.begins_job() {
            self.guard.may_begin_job(&attribution.key)?;
        }
        let request = ReserveRequest {
            client_cap: max_cost,
            ..Accrual::new(&self.guard, rules).request(&attribution, cost)
        };
        let permit = self.permit(rules, &head.headers, caller);
        let reserved = permit.reserve(request, rules.admit.hold_wait).await;
        let reservation = reserved.map_err(|refusal| refusal.with_levers(plan.levers()))?;
        Ok(paced(plan, reservation, rate_check))
    }

    /// Checks the objects that a request names; returns the store that its path names.
    async fn check_hosted(
        &self,
        rules: &Rules,
        head: &http::request::Parts,
        body: &Bytes,
        caller: &Caller,
    ) -> Result<Option<ObjectReference>, Refusal> {
        let reach = Self::reach(rules, caller);
        if !body.is_empty() {
            let named = self.guard.parsed(body, |body| request::object_ids(body)).await;
            let named = named.map_err(refuse_invalid)?;
            self.check_named(&named, Named::InBody, &reach).await?;
        }
        let Some(endpoint::Place { kind, id: Some(id), .. }) = endpoint::place(head.uri.path()) else {
            return Ok(None);
        };
        let of = ObjectReference { kind, id: id.to_owned() };
        self.check_named(std::slice::from_ref(&of), Named::InPath, &reach).await?;
        Ok(Some(of))
    }

    async fn added(&self, body: &Bytes) -> Result<AddedFiles, Refusal> {
        let added = self.guard.parsed(body, |body| request::added_files(body)).await;
        added.map_err(refuse_invalid)
    }

    /// What files add to a store, and for whom that is: for the key that has made it. Of a store that
    /// no job follows, upstream is asked what it keeps.
    async fn growth(
        &self,
        rules: &Rules,
        store: ObjectReference,
        added: AddedFiles,
        (caller, attribution): (&Caller, Arc<Attribution>),
    ) -> Result<(Growth, Arc<Attribution>), Refusal> {
        let accrual = Accrual::new(&self.guard, rules);
        let found = accrual.find(VECTOR_STORE, &store.id).await.map_err(Refusal::from)?;
        let is_followed = found.is_some();
        let (kept, attribution) = if let Some(open) = found {
            // Whose store it is, upstream alone can say of a client's own key.
            let maker = &open.hold.attribution;
            (0, if is_own(caller) { Arc::clone(maker) } else { attribution })
        } else {
            let asker = Asker { upstream: self.upstream(rules), authorization: &caller.authorization };
            let shown = asker.show("/vector_stores", &store.id, &attribution).await;
            let shown = shown.ok().and_then(|shown| VectorStore::read(&shown));
            let shown = shown.ok_or(Refusal::Upstream(NoAnswer::Unreachable(Billed::No)))?;
            (shown.bytes_max(added.bytes_max_each()), attribution)
        };
        let bytes = (kept.saturating_add(added.bytes_max()), added.bytes_max_each());
        let terms = Terms::vector_store(bytes, rules.sheet.fees(), self.now_s(), is_own(caller));
        Ok((Growth { store, terms, is_followed }, attribution))
    }

    async fn exchange_hosted(
        &self,
        rules: &Rules,
        Admitted { plan, mut reservation, rates }: Admitted,
        outgoing: Outgoing,
        caller: &Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let accrual = Accrual::new(&self.guard, rules);
        let _adding = match &plan {
            Plan::Files(growth) => Some(accrual.adding(&growth.store.id)),
            Plan::Container(..) | Plan::Store(_) | Plan::Search(_) => None,
        };
        reservation.mark_sent();
        let sending = outgoing.send(self.upstream(rules));
        let answer = match answered(sending, &mut in_flight).await {
            Ok(answer) => answer,
            Err(error) => {
                in_flight.settled(&end_unanswered(reservation, &error));
                let billed = if error.sent { Billed::Perhaps } else { Billed::No };
                return Err((Refusal::Upstream(NoAnswer::of(&error, billed)), in_flight));
            }
        };
        let exchange = Exchange::of(answer.status().as_u16(), answer.headers());
        let (mut head, body) = answer.into_parts();
        headers::to_client(&mut head.headers);
        head.headers.extend(rates);
        in_flight.status = head.status.as_u16();
        if !head.status.is_success() {
            let failed = Unserved { reservation, exchange, in_flight, idle: rules.answer_idle };
            return failed.pass_on(head, body).await;
        }
        let Ok((mut head, bytes)) = whole(Response::from_parts(head, body)).await else {
            in_flight.settled(&reservation.assume(exchange.ending()));
            return Err((BROKEN_OFF, in_flight));
        };
        let made = (&bytes, exchange);
        match plan {
            Plan::Search(searches) => {
                let fee = search_fee(rules, searches);
                let quantities = [(Class::FileSearchCalls, searches)].into();
                let ending = Ending { cost: fee, tool_fees: fee, quantities, ..made.1.ending() };
                let settled = reservation.settle(Basis::Counted, ending);
                in_flight.settled(&settled);
                headers::add_amounts(&mut head.headers, (settled.cost, settled.remaining));
            }
            Plan::Files(growth) => accrual.grow(&growth.store.id, &growth.terms, reservation).await,
            Plan::Container(terms, life) => {
                self.made_container(&accrual, (terms, life), reservation, made, caller).await;
            }
            Plan::Store(terms) => self.made_store(&accrual, &terms, reservation, made, caller).await,
        }
        in_flight.ended("ok");
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }

    /// Follows a container that upstream has made, and records whose it is.
    async fn made_container(
        &self,
        accrual: &Accrual,
        (terms, (memory, idle_s)): (Terms, (ContainerMemory, i64)),
        reservation: Reservation,
        (answer, exchange): (&Bytes, Exchange),
        caller: &Caller,
    ) {
        let Some(made) = Container::read(answer) else { return charge_unnamed(reservation, exchange) };
        let idle_s = made.idle_s.unwrap_or(idle_s);
        let has_job = accrual.begin(reservation, CONTAINER, &made.id, &terms.living(idle_s)).await;
        let known = made_by(&caller.key, self.now_s());
        let known = KnownObject {
            container_memory: Some(made.memory.unwrap_or(memory).max(memory)),
            has_job,
            idle_s,
            used_s: known.created_s,
            ..known
        };
        self.know(ObjectReference { kind: ObjectKind::Container, id: made.id }, known).await;
    }

    async fn made_store(
        &self,
        accrual: &Accrual,
        terms: &Terms,
        reservation: Reservation,
        (answer, exchange): (&Bytes, Exchange),
        caller: &Caller,
    ) {
        let Some(id) = VectorStore::id_in(answer) else { return charge_unnamed(reservation, exchange) };
        accrual.begin(reservation, VECTOR_STORE, &id, terms).await;
        let known = made_by(&caller.key, self.now_s());
        self.know(ObjectReference { kind: ObjectKind::VectorStore, id }, known).await;
    }

    async fn know(&self, of: ObjectReference, known: KnownObject) {
        self.guard.record_objects(vec![put(of, known)]).await;
    }

    fn now_s(&self) -> i64 {
        self.guard.clock().now_s()
    }
}

/// An admitted request that takes its part of the rates.
fn paced(plan: Plan, mut reservation: Reservation, rate_check: RateCheck) -> Admitted {
    let rates = rate_headers(&rate_check);
    reservation.pace(rate_check);
    Admitted { plan, reservation, rates }
}

/// Whether the guard sends it with its own key.
fn is_own(caller: &Caller) -> bool {
    !caller.key.pass_through
}

fn search_fee(rules: &Rules, searches: u64) -> Money {
    let fee = i128::from(rules.sheet.fees()[Class::FileSearchCalls]);
    Money::from_pico_rounded_up(fee.saturating_mul(i128::from(searches)))
}

/// Charges the hold of something that upstream has made and not named.
fn charge_unnamed(reservation: Reservation, exchange: Exchange) {
    tracing::warn!(
        event = "unnamed_object_charged",
        "an answer does not name what was made, so its hold is charged"
    );
    let note = Some("the answer does not name what was made");
    reservation.assume(Ending { note, ..exchange.ending() });
}
