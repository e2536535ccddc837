//! Comparing and merging cartridges, as plans.
//!
//! Nothing here touches files: a plan is made from manifests, and carried out over traits that give
//! the bytes of tensors and take those of the result. So a plan can be printed before it is carried
//! out, and repeated to see whether it gives the same.
//!
//! Begin with [`diff`], what differs: [`diff::DiffPlan`] for tensors, [`diff::TokenizerDiff`], [`diff::MemoryDiff`]. For merging, begin
//! with [`weights`]: [`weights::MergeConfig`], [`weights::Plan`]. [`memories`] says which memories of the inputs become one; how they do
//! is `cart_memory::join`. [`low_rank`] finds products of factors that stand for a difference, and adds such to a cartridge.

pub mod diff;
pub mod low_rank;
pub mod memories;
pub mod weights;
