//! Flows, exchanges, attributions, explanations and usage of one tenant.
//!
//! The database blocks, so every question runs on a thread for blocking work; the number of those threads bounds how
//! many run at once. What a client gets comes from a [`VerifiedTenant`]'s reader and nowhere else.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use meter::record::RecordId;
use proto::v1;
use proto::v1::records_server::Records;
use proto::v1::usage_service_server::UsageService;
use store::{GroupKey, Kind, ListQuery, Page, TenantReader, UsageQuery};
use tonic::{Request, Response, Status};

use super::{Questions, Serving, convert, watch};

/// Records of a page at most, about 2 MiB: a client that reads slowly holds no more. A larger limit is lowered to it.
const PAGE_MAX: usize = 1_000;

/// Implements `Records` and `UsageService`.
#[derive(Clone, Debug)]
pub(super) struct TenantQueries(pub(super) Arc<Serving>);

impl TenantQueries {
    /// The reader of a tenant that the caller may read.
    fn granted<T>(&self, request: &Request<T>, tenant: &str) -> Result<TenantReader, Status> {
        let tenant =
            self.0.principal(request)?.tenant(tenant).map_err(|refusal| self.0.refuse(request, &refusal))?;
        tenant
            .reader(&self.0.stores)
            .ok_or_else(|| Status::unavailable("the tenant's store is not open: see `venturi status`"))
    }

    async fn page<T>(&self, request: &Request<T>, of: Listing<'_>) -> Result<Page, Status> {
        let reader = self.granted(request, of.tenant)?;
        let query = of.query()?;
        self.0.questions.ask(move || reader.list(&query)).await
    }
}

/// What the three list requests have in common.
struct Listing<'a> {
    tenant: &'a str,
    kind: Kind,
    range: Option<&'a v1::TimeRange>,
    limit: u32,
    cursor: &'a str,
    descending: bool,
}

impl Listing<'_> {
    fn query(&self) -> Result<ListQuery, Status> {
        let (since, until) = range(self.range)?;
        let after = match self.cursor {
            "" => None,
            text => match RecordId::from_text(text) {
                Some(id) => Some(id),
                None => return Err(Status::invalid_argument("cursor: not one that a list has returned")),
            },
        };
        let limit = usize::try_from(self.limit).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        Ok(ListQuery { kind: self.kind, since, until, after, limit, descending: self.descending })
    }
}

#[tonic::async_trait]
impl Records for TenantQueries {
    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Result<Response<v1::ListFlowsResponse>, Status> {
        let v1::ListFlowsRequest { tenant, range, limit, cursor, descending } = request.get_ref();
        let (limit, descending) = (*limit, *descending);
        let listing = Listing { tenant, kind: Kind::Flow, range: range.as_ref(), limit, cursor, descending };
        let page = self.page(&request, listing).await?;
        Ok(Response::new(v1::ListFlowsResponse {
            flows: page.records.iter().filter_map(convert::record_flow).collect(),
            next_cursor: convert::cursor(page.next),
        }))
    }

    async fn list_exchanges(
        &self,
        request: Request<v1::ListExchangesRequest>,
    ) -> Result<Response<v1::ListExchangesResponse>, Status> {
        let v1::ListExchangesRequest { tenant, range, limit, cursor, descending } = request.get_ref();
        let (limit, descending) = (*limit, *descending);
        let listing =
            Listing { tenant, kind: Kind::Exchange, range: range.as_ref(), limit, cursor, descending };
        let page = self.page(&request, listing).await?;
        Ok(Response::new(v1::ListExchangesResponse {
            exchanges: page.records.iter().filter_map(convert::record_exchange).collect(),
            next_cursor: convert::cursor(page.next),
        }))
    }

    async fn get_attribution(
        &self,
        request: Request<v1::GetAttributionRequest>,
    ) -> Result<Response<v1::AttributionRecord>, Status> {
        let v1::GetAttributionRequest { tenant, id } = request.get_ref();
        let reader = self.granted(&request, tenant)?;
        let record = get(&self.0.questions, reader, id).await?;
        Ok(Response::new(convert::record(&record)))
    }

    async fn list_attributions(
        &self,
        request: Request<v1::ListAttributionsRequest>,
    ) -> Result<Response<v1::ListAttributionsResponse>, Status> {
        let v1::ListAttributionsRequest { tenant, range, limit, cursor, descending, include_flows } =
            request.get_ref();
        let (limit, descending) = (*limit, *descending);
        let kind = if *include_flows { Kind::Any } else { Kind::Exchange };
        let listing = Listing { tenant, kind, range: range.as_ref(), limit, cursor, descending };
        let page = self.page(&request, listing).await?;
        Ok(Response::new(v1::ListAttributionsResponse {
            records: page.records.iter().map(convert::record).collect(),
            next_cursor: convert::cursor(page.next),
        }))
    }

    type WatchAttributionsStream = Pin<Box<dyn Stream<Item = Result<v1::AttributionRecord, Status>> + Send>>;

    async fn watch_attributions(
        &self,
        request: Request<v1::WatchAttributionsRequest>,
    ) -> Result<Response<Self::WatchAttributionsStream>, Status> {
        let v1::WatchAttributionsRequest { tenant, since, include_flows, cursor } = request.get_ref();
        let reader = self.granted(&request, tenant)?;
        let since = since.as_ref().map(|at| nanos("since", at)).transpose()?;
        let kind = if *include_flows { Kind::Any } else { Kind::Exchange };
        let begin = match (cursor.as_str(), since) {
            ("", None) => watch::Begin::Now,
            ("", Some(_)) => watch::Begin::Oldest,
            (text, _) => watch::Begin::Behind(
                text.parse()
                    .map_err(|()| Status::invalid_argument("cursor: not one that a watch has returned"))?,
            ),
        };
        let (position, records) = watch::start(Arc::clone(&self.0), reader, begin, since, kind);
        let mut response = Response::new(Box::pin(records) as Self::WatchAttributionsStream);
        // For a client that is cut off before the first record.
        if let Ok(position) = position.to_string().parse() {
            response.metadata_mut().insert(proto::WATCH_CURSOR, position);
        }
        Ok(response)
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let v1::ExplainRequest { tenant, id } = request.get_ref();
        let reader = self.granted(&request, tenant)?;
        let record = get(&self.0.questions, reader, id).await?;
        Ok(Response::new(convert::explanation(&record)))
    }
}

#[tonic::async_trait]
impl UsageService for TenantQueries {
    async fn query_usage(
        &self,
        request: Request<v1::QueryUsageRequest>,
    ) -> Result<Response<v1::QueryUsageResponse>, Status> {
        let v1::QueryUsageRequest { tenant, range: span, group_by, bucket_seconds } = request.get_ref();
        let reader = self.granted(&request, tenant)?;
        let (since, until) = range(span.as_ref())?;
        let group_by = group_by.iter().map(|name| group_key(name)).collect::<Result<Vec<_>, Status>>()?;
        if bucket_seconds % 3_600 != 0 {
            return Err(Status::invalid_argument(
                "bucket_seconds: must be a multiple of 3600, or 0 for one bucket",
            ));
        }
        let query = UsageQuery { since, until, group_by, bucket_seconds: *bucket_seconds };
        let rows = self.0.questions.ask(move || reader.usage(&query)).await?;
        Ok(Response::new(v1::QueryUsageResponse { rows: rows.iter().map(convert::usage_row).collect() }))
    }
}

async fn get(questions: &Questions, reader: TenantReader, id: &str) -> Result<meter::record::Record, Status> {
    let Some(id) = RecordId::from_text(id) else {
        return Err(Status::invalid_argument("id: must be attr_ and 32 hex digits"));
    };
    match questions.ask(move || reader.get(id)).await? {
        Some(record) => Ok(record),
        None => Err(Status::not_found("no such record of this tenant")),
    }
}

type Bound = Option<meter::time::UnixNanos>;

fn range(range: Option<&v1::TimeRange>) -> Result<(Bound, Bound), Status> {
    let Some(v1::TimeRange { since, until }) = range else { return Ok((None, None)) };
    let since = since.as_ref().map(|at| nanos("range.since", at)).transpose()?;
    let until = until.as_ref().map(|at| nanos("range.until", at)).transpose()?;
    Ok((since, until))
}

fn nanos(field: &str, at: &prost_types::Timestamp) -> Result<meter::time::UnixNanos, Status> {
    convert::unix_nanos(at)
        .ok_or_else(|| Status::invalid_argument(format!("{field}: must be between 1970 and 2554")))
}

fn group_key(name: &str) -> Result<GroupKey, Status> {
    GroupKey::from_name(name).ok_or_else(|| {
        let allowed = GroupKey::ALL.map(GroupKey::as_str).join(", ");
        Status::invalid_argument(format!("group_by: {name:?} is not one of {allowed}"))
    })
}
