//! Cgroup paths to container, pod and unit. Stub body replaced by its owner.
