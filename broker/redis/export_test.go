package redis

// PartitionSlots tells tests where the partitions of a Cluster are.
var PartitionSlots = partitionSlots
