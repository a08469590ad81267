//! Doing at a broker what has to be done.

use rabbitmq_http_client::{
    commons::{BindingDestinationType, PolicyTarget, UserLimitTarget, VirtualHostLimitTarget},
    requests::{
        BindingDeletionParams, EnforcedLimitParams, ExchangeParams, Permissions, PolicyParams, QueueParams,
        RuntimeParameterDefinition, VirtualHostParams,
    },
};
use serde_json::json;

use super::{Management, ManagementError, Step, pattern::percent_encoded, snapshot::TAG};

/// What takes everything.
const ANY_KEY: &str = "#";

impl Management {
    /// Does one step. Doing it again does no harm.
    pub async fn apply(&self, step: &Step) -> Result<(), ManagementError> {
        let client = &self.shared.client;
        let done = match step {
            Step::Vhost { name, description } => {
                let vhost = VirtualHostParams::named(name).with_description(description).with_tags(vec![TAG]);
                client.create_vhost(&vhost).await
            }
            Step::MaxQueues { vhost, value } => {
                let limit = EnforcedLimitParams::new(VirtualHostLimitTarget::MaxQueues, *value);
                client.set_vhost_limit(vhost, limit).await
            }
            Step::User { name, password } => return self.set_user(name, password).await,
            Step::Limit { user, kind, value } => {
                let kind = match *kind {
                    "max-channels" => UserLimitTarget::MaxChannels,
                    _ => UserLimitTarget::MaxConnections,
                };
                client.set_user_limit(user, EnforcedLimitParams::new(kind, *value)).await
            }
            Step::Permit { vhost, permission } => {
                let (user, configure) = (&*permission.user, &*permission.configure);
                let (read, write) = (&*permission.read, &*permission.write);
                client.declare_permissions(&Permissions { user, vhost, configure, read, write }).await
            }
            Step::Exchange { vhost, name } => {
                client.declare_exchange(vhost, &ExchangeParams::durable_topic(name, None)).await
            }
            Step::Queue { vhost, name } => {
                client.declare_queue(vhost, &QueueParams::new_quorum_queue(name, None)).await
            }
            Step::Bind { vhost, exchange, queue } => {
                client.bind_queue(vhost, queue, exchange, Some(ANY_KEY), None).await
            }
            Step::Unbind { vhost, exchange, queue } => {
                let binding = BindingDeletionParams {
                    virtual_host: vhost,
                    source: exchange,
                    destination: queue,
                    destination_type: BindingDestinationType::Queue,
                    routing_key: ANY_KEY,
                    arguments: None,
                };
                client.delete_binding(&binding, true).await
            }
            Step::Parameter { vhost, parameter } => {
                let (name, component, value) = (&*parameter.name, parameter.component, parameter.value.clone());
                client.upsert_runtime_parameter(&RuntimeParameterDefinition { name, vhost, component, value }).await
            }
            Step::NoParameter { vhost, component, name } => {
                client.clear_runtime_parameter(component, vhost, name, true).await
            }
            Step::Policy { vhost, policy } => {
                let target = PolicyTarget::from(policy.apply_to);
                let params = PolicyParams::new(vhost, &policy.name, &policy.pattern, policy.definition.clone());
                client.declare_policy(&params.apply_to(target).priority(policy.priority)).await
            }
            Step::NoPolicy { vhost, name } => client.delete_policy(vhost, name, true).await,
        };
        done.map_err(|error| self.failed(error, &step.to_string()))
    }

    /// The broker hashes the password by itself, in its own way. The library would have to know which.
    ///
    /// Another password alone would leave whoever is connected by the old one: only with the user do its connections go, also
    /// those that the management has not heard of yet.
    async fn set_user(&self, name: &str, password: &str) -> Result<(), ManagementError> {
        self.remove_user(name).await?;
        let body = json!({ "password": password, "tags": TAG });
        self.put(&format!("/users/{}", percent_encoded(name)), &body, &format!("the user {name}")).await
    }

    /// Takes away a virtual host with all that is in it; whoever is connected to it is cut off.
    pub async fn remove_vhost(&self, name: &str) -> Result<(), ManagementError> {
        let gone = self.shared.client.delete_vhost(name, true).await;
        gone.map_err(|error| self.failed(error, &format!("the end of the virtual host {name}")))
    }

    /// Takes away a user; its connections end.
    pub async fn remove_user(&self, name: &str) -> Result<(), ManagementError> {
        let gone = self.shared.client.delete_user(name, true).await;
        gone.map_err(|error| self.failed(error, &format!("the end of the user {name}")))
    }
}
