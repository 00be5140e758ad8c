//! Who may ask for what over the unix socket. Fails closed.
//!
//! The peer's user and groups, as the kernel states them, become a [`Principal`]: the tenants whose records it may
//! read, and whether it may see the node. A [`VerifiedTenant`] can be made only here, and only it leads to a reader of
//! the store, so a row of another tenant cannot be returned by mistake. A refusal is the same whether or not the tenant
//! exists.

use std::collections::BTreeMap;
use std::fmt;

use meter::attribution::TenantName;
use store::{Stores, TenantReader};

use crate::config::{Config, Role};

/// Whom the kernel says is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective and supplementary group ids.
    pub gids: Vec<u32>,
    /// Process id, if known.
    pub pid: Option<u32>,
}

/// The rules, compiled from the configuration.
#[derive(Clone, Debug)]
pub struct Access {
    tenants: Vec<Granted>,
    /// Group whose members read the only tenant.
    group: Option<u32>,
}

#[derive(Clone, Debug)]
struct Granted {
    tenant: TenantName,
    uids: BTreeMap<u32, Role>,
    gids: BTreeMap<u32, Role>,
}

impl Access {
    /// Compiles the grants. `group` is the id of the group that may connect, if there is one.
    pub fn new(config: &Config, group: Option<u32>) -> Access {
        let mut tenants: Vec<Granted> = Vec::new();
        for tenant in &config.tenants {
            let mut granted =
                Granted { tenant: tenant.name.clone(), uids: BTreeMap::new(), gids: BTreeMap::new() };
            for grant in &tenant.grants {
                let raise = |roles: &mut BTreeMap<u32, Role>, id: u32| {
                    let role = roles.entry(id).or_insert(grant.role);
                    *role = grant.role.max(*role);
                };
                grant.uids.iter().for_each(|uid| raise(&mut granted.uids, *uid));
                grant.gids.iter().for_each(|gid| raise(&mut granted.gids, *gid));
            }
            tenants.push(granted);
        }
        if tenants.is_empty() {
            let tenant = TenantName::new(TenantName::DEFAULT);
            tenants.extend(tenant.map(|tenant| Granted {
                tenant,
                uids: BTreeMap::new(),
                gids: BTreeMap::new(),
            }));
        }
        Access { tenants, group }
    }

    /// What a peer may do.
    pub fn principal(&self, peer: &Peer) -> Principal {
        let root = peer.uid == 0;
        let member = self.group.is_some_and(|group| peer.gids.contains(&group));
        let only = self.tenants.len() == 1;
        let mut principal = Principal { peer: peer.clone(), tenants: Vec::new(), node: root };
        for granted in &self.tenants {
            let by_default = (only && (root || member)).then_some(Role::Operator);
            let by_uid = granted.uids.get(&peer.uid).copied();
            let by_gid = peer.gids.iter().filter_map(|gid| granted.gids.get(gid).copied()).max();
            if let Some(role) = by_default.max(by_uid).max(by_gid) {
                principal.node |= role == Role::Operator;
                principal.tenants.push(granted.tenant.clone());
            }
        }
        principal
    }
}

/// What a peer may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    peer: Peer,
    tenants: Vec<TenantName>,
    node: bool,
}

impl Principal {
    /// The tenant it asks for, if it may. An empty `requested` means the only one it may read.
    pub fn tenant(&self, requested: &str) -> Result<VerifiedTenant, Refusal> {
        if requested.is_empty() {
            return match self.tenants.as_slice() {
                [] => Err(Refusal::NotGranted),
                [only] => Ok(VerifiedTenant(only.clone())),
                several => Err(Refusal::WhichTenant(several.to_vec())),
            };
        }
        match self.tenants.iter().find(|tenant| tenant.as_str() == requested) {
            Some(tenant) => Ok(VerifiedTenant(tenant.clone())),
            None => Err(Refusal::TenantMismatch),
        }
    }

    /// Whether it may see status and coverage of the whole node.
    pub fn sees_node(&self) -> bool {
        self.node
    }

    /// Whether it may read records of `tenant`: for filtering what status says.
    pub fn reads(&self, tenant: &TenantName) -> bool {
        self.tenants.contains(tenant)
    }

    /// Whether it was granted anything at all.
    pub fn is_granted(&self) -> bool {
        self.node || !self.tenants.is_empty()
    }

    /// Whom it speaks for.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// A tenant whose records the caller may read. Made by [`Principal::tenant`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTenant(TenantName);

impl VerifiedTenant {
    /// Its name.
    pub fn name(&self) -> &TenantName {
        &self.0
    }

    /// Reader of its records; `None` if it has no store.
    pub fn reader(&self, stores: &Stores) -> Option<TenantReader> {
        stores.reader(&self.0)
    }
}

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The tenant asked for is not one the caller may read.
    TenantMismatch,
    /// The caller may read nothing.
    NotGranted,
    /// The caller may read several tenants and named none.
    WhichTenant(Vec<TenantName>),
}

impl Refusal {
    /// Machine-readable reason, as in the error's details.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::TenantMismatch => "TENANT_MISMATCH",
            Refusal::NotGranted => "NOT_GRANTED",
            Refusal::WhichTenant(_) => "TENANT_REQUIRED",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TenantMismatch => f.write_str("your tenant does not match the requested tenant"),
            Refusal::NotGranted => {
                f.write_str("your user has no grant: see [[tenant.grant]] in the configuration")
            }
            Refusal::WhichTenant(tenants) => {
                let names: Vec<&str> = tenants.iter().map(TenantName::as_str).collect();
                write!(f, "several tenants may be read, name one of {}", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "[[tenant]]\nname = \"a\"\n[[tenant.grant]]\nuids = [1000]\n\
        [[tenant.grant]]\nrole = \"operator\"\ngids = [70]\n[[tenant]]\nname = \"b\"\n[[tenant.grant]]\ngids = [70, 80]";

    /// `expected`: tenant granted for `requested` or the reason of the refusal, then whether the node is visible.
    fn check(config: &str, uid: u32, gids: &[u32], requested: &str, expected: (Result<&str, &str>, bool)) {
        let config = crate::config::parse(config).expect("a valid configuration");
        let principal =
            Access::new(&config, Some(50)).principal(&Peer { uid, gids: gids.to_vec(), pid: None });
        let answer = principal.tenant(requested);
        let answer = answer.as_ref().map(|tenant| tenant.name().as_str()).map_err(Refusal::reason);
        assert_eq!(
            (answer, principal.sees_node()),
            expected,
            "uid {uid} gids {gids:?} asks for {requested:?}"
        );
    }

    #[test]
    fn peers_get_what_they_were_granted() {
        let one = "[[tenant]]\nname = \"a\"\n[[tenant.grant]]\nuids = [1000]";
        for (config, uid, gids, requested, expected) in [
            ("", 0_u32, &[0_u32] as &[u32], "", (Ok("default"), true)),
            ("", 0, &[0], "default", (Ok("default"), true)),
            ("", 0, &[0], "other", (Err("TENANT_MISMATCH"), true)),
            ("", 1000, &[1000, 50], "", (Ok("default"), true)),
            ("", 1000, &[1000], "", (Err("NOT_GRANTED"), false)),
            ("", 1000, &[1000], "default", (Err("TENANT_MISMATCH"), false)),
            (one, 0, &[0], "", (Ok("a"), true)),
            (one, 1000, &[1000], "", (Ok("a"), false)),
            (one, 1001, &[50], "a", (Ok("a"), true)),
            (TWO, 0, &[0], "", (Err("NOT_GRANTED"), true)),
            (TWO, 0, &[0], "a", (Err("TENANT_MISMATCH"), true)),
            (TWO, 0, &[0], "unassigned", (Err("TENANT_MISMATCH"), true)),
            (TWO, 5, &[50], "a", (Err("TENANT_MISMATCH"), false)),
            (TWO, 1000, &[1], "", (Ok("a"), false)),
            (TWO, 1000, &[1], "b", (Err("TENANT_MISMATCH"), false)),
            (TWO, 7, &[1, 70], "", (Err("TENANT_REQUIRED"), true)),
            (TWO, 7, &[1, 70], "b", (Ok("b"), true)),
            (TWO, 7, &[80], "", (Ok("b"), false)),
            (TWO, 7, &[80, 70], "unassigned", (Err("TENANT_MISMATCH"), true)),
        ] {
            check(config, uid, gids, requested, expected);
        }
    }
}
