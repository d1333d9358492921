"""The one owner of a live or offline cluster: its state, its lock, its threads, its memories.

Every object gets what it uses when it is made, so arrows run one way::

    Webhook (scheduler.webhook)
      Verbs, views, metrics ---------------------+
      LiveCluster (follow)                       |
        Reflectors -> queue -> applying thread --+
        Caretaker, Audit ------------------------+--> Ledger.locked() -> Cluster
        Binder ----------------------------------+
      PlannerLoop (worker) <-> planner process --+
                                                     Cluster, while its lock is held
                                                       engine    the state and what fits in it
                                                       gangs     joint plans and pins
                                                       sync      what the API says (live)
                                                       pods      those asked about, those that wait
                                                       requeue   refused pods that may fit by now
                                                       victims   by the pod that they make room for
                                                       pricing   the profile and the prices in force
                                                       events    what follows for these memories

Questions are functions of a cluster and a request (``filtering``, ``prioritizing``, ``dryruns``):
they answer, and one function beside each records what the answer has to be remembered by. What
takes long is done beside the cluster and put in force in it (``preempting``, ``planned``,
``repricing``).

Refuses to know HTTP, or bytes of a request. May be imported by ``webhook`` and ``cli``.
"""
