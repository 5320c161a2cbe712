// The program that holds a pod's namespaces open.
module dtq.dev/hack/cluster/pause

go 1.24.0
