//! Who refers to what: for messages before something is deleted. References never leave
//! their namespace.

use bodhi_proto::names::ObjectRef;

use super::{Index, Name};

/// The objects that use a key of this Secret, in order of kind and name.
pub fn users_of_secret(index: &Index, secret: &Name) -> Vec<ObjectRef> {
    let same =
        |owner: &Name, name: &str| owner.namespace == secret.namespace && *name == *secret.name;
    let api_models = index.api_models().filter(|(owner, object)| {
        let auth = object.spec.auth.secret_ref.as_ref();
        let roots = object.spec.ca_bundle_ref.as_ref();
        auth.into_iter().chain(roots).any(|r| same(owner, &r.name))
    });
    let aliases = index.aliases().filter(|(owner, object)| {
        let local = object.spec.target.local.as_ref();
        let credentials = local.and_then(|local| local.credentials_ref.as_ref());
        credentials.is_some_and(|r| same(owner, &r.name))
    });
    let api_models = api_models.map(|(n, _)| ObjectRef::api_model(&n.namespace, &n.name));
    let aliases = aliases.map(|(n, _)| ObjectRef::alias(&n.namespace, &n.name));
    api_models.chain(aliases).collect()
}

/// The Aliases that route to this ApiModel.
pub fn users_of_api_model(index: &Index, api_model: &Name) -> Vec<ObjectRef> {
    let routed = |(owner, object): &(&Name, &std::sync::Arc<crate::api::Alias>)| {
        let api = object.spec.target.api.as_ref();
        let mut routes = api.into_iter().flat_map(|api| &api.routes);
        owner.namespace == api_model.namespace && routes.any(|r| *r.api_model == *api_model.name)
    };
    let aliases = index.aliases().filter(routed);
    aliases
        .map(|(n, _)| ObjectRef::alias(&n.namespace, &n.name))
        .collect()
}
