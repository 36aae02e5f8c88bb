package redis

// PartitionSlots tells tests where the partitions of a Cluster are.
var PartitionSlots = partitionSlots

// Partition returns the partition of a subject.
func Partition(subject string) int { return int(newShardedChannels("").partition(subject)) }
