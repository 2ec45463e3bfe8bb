//! Opening secrets for the source of a step that runs.

use common::grant::Labels;
use common::sanitize::{Action, FileRule, Find, Mask, Sanitize, With};
use common::spec::{MigrationSpec, OptionsSpec, Origin, SideSpec, TransferSpec};
use proto::channel::{control_client, secret_client};
use proto::v1;
use proto::v1::coordinator_message::Message as ToAgent;

use crate::host::Host;
use crate::site::{PATIENCE, Site};
use crate::times::Times;

/// Secrets that are opened.
const OPENINGS: usize = 1_000;
/// The reference to the one that is opened.
const REFERENCE: &str = "${secret:mask}";

/// Two agents between which a step runs.
pub(crate) struct Pair {
    source: Host,
    destination: Host,
    grant: v1::Grant,
}

impl Pair {
    /// Renews the lease of the step.
    pub(crate) async fn renew(&mut self) {
        let v1::Grant { migration, step, token, .. } = self.grant.clone();
        self.destination.renew(v1::HeldLease { migration, step, token }).await;
    }
}

fn spec() -> String {
    let side = |location: &str| SideSpec {
        location: location.parse().unwrap(),
        exclude: Vec::new(),
        include: Vec::new(),
    };
    let mask = Mask { find: vec![Find::Email], regex: Vec::new(), with: With::Key };
    let rule = FileRule { patterns: vec!["*.sql".to_owned()], action: Action::Mask(mask) };
    let spec = MigrationSpec {
        version: 1,
        name: "bench".to_owned(),
        source: side("source:/a"),
        destination: side("destination:/b"),
        transfer: TransferSpec::default(),
        options: OptionsSpec::default(),
        sanitize: Some(Sanitize {
            key: Some(REFERENCE.parse().unwrap()),
            key_version: None,
            files: vec![rule],
        }),
        origin: Origin::Flags,
        labels: Labels::new(),
    };
    serde_json::to_string(&spec).unwrap()
}

/// Starts a migration between two agents, and returns them with what the destination was granted.
async fn begin(site: &Site) -> Pair {
    let set = |way| async move {
        let value = vec![7; 64];
        let (name, request_id) = ("mask".to_owned(), "bench".to_owned());
        secret_client(way)
            .set_secret(v1::SetSecretRequest { name, value, request_id, ..Default::default() })
            .await
    };
    site.operator.call(PATIENCE, set).await.unwrap();
    let mut source = Host::connect(site, "source").await;
    let mut destination = Host::connect(site, "destination").await;
    let request = v1::MigrateRequest {
        request_id: "bench".to_owned(),
        spec: spec(),
        plan_only: false,
        confirmed: false,
    };
    let migrate = |way| {
        let request = request.clone();
        async move { control_client(way).migrate(request).await }
    };
    let granted = async {
        let (made, granted) = tokio::join!(site.operator.call(PATIENCE, migrate), destination.next());
        made.unwrap();
        granted
    };
    let granted = tokio::select! {
        granted = granted => granted,
        other = source.next() => panic!("the source has no part in it yet: {other:?}"),
    };
    let ToAgent::Grant(grant) = granted else { panic!("{granted:?} and no grant") };
    Pair { source, destination, grant }
}

/// Measures how long opening takes, beside a heartbeat over the same kind of session.
pub(crate) async fn run(site: &Site) -> Pair {
    let mut pair = begin(site).await;
    let (mut renewals, mut openings) = (Times::default(), Times::default());
    for _ in 0..OPENINGS {
        renewals.awaited(pair.renew()).await;
        openings.awaited(pair.source.open(REFERENCE, &pair.grant.ticket)).await;
    }
    renewals.print("renewing a lease over a session, with its new ticket");
    openings.print("a secret from the question to the answer, sealed to its agent");
    println!("  allowed 1000 us for opening it");
    pair
}
