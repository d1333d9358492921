"""What devices, slots, nodes and pods are worth to the pods to come: duals of a linear program."""
