package redis

// PartitionSlots tells tests where the partitions of a Cluster are.
var PartitionSlots = partitionSlots

// PartitionTags returns the hash tag of each partition.
func PartitionTags() [partitions]string { return partitionTags() }

// Partition returns the partition of a subject.
func Partition(subject string) int { return int(newShardedChannels("").partition(subject)) }
