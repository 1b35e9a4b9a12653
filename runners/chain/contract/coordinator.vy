# pragma version ~=0.4.0
"""
@title Coordinator of a swarm: who takes part, which round it is, what each peer was paid, and whom it votes for
@license Apache-2.0
@notice Peers report; nothing here pays money. What a peer reports is its own word, which a root of its rows makes
        checkable (`submitRoot`). An error is four bytes, the selector of its name, such as `InvalidRoundNumber()`.
"""

MAX_ID: constant(uint256) = 128
MAX_ADDRESS: constant(uint256) = 256
MAX_BOOTNODES: constant(uint256) = 64
MAX_WINNERS: constant(uint256) = 32
MAX_ASKED: constant(uint256) = 64
MAX_IDS: constant(uint256) = 64
PAGE: constant(uint256) = 64
MAX_RANKED: constant(uint256) = 1024

OWNER_ROLE: public(constant(bytes32)) = keccak256("OWNER_ROLE")
STAGE_MANAGER_ROLE: public(constant(bytes32)) = keccak256("STAGE_MANAGER_ROLE")
BOOTNODE_MANAGER_ROLE: public(constant(bytes32)) = keccak256("BOOTNODE_MANAGER_ROLE")

event PeerRegistered:
    eoa: indexed(address)
    peerId: String[MAX_ID]

event RewardSubmitted:
    account: indexed(address)
    roundNumber: indexed(uint256)
    stageNumber: indexed(uint256)
    reward: int256
    peerId: String[MAX_ID]

event CumulativeRewardsUpdated:
    account: indexed(address)
    peerId: String[MAX_ID]
    totalRewards: int256

event WinnerSubmitted:
    account: indexed(address)
    peerId: String[MAX_ID]
    roundNumber: indexed(uint256)
    winners: DynArray[String[MAX_ID], MAX_WINNERS]

event RootSubmitted:
    account: indexed(address)
    roundNumber: indexed(uint256)
    root: bytes32
    rows: uint256
    peerId: String[MAX_ID]

event RoundAdvanced:
    newRoundNumber: indexed(uint256)

event StageAdvanced:
    roundNumber: indexed(uint256)
    newStage: uint256

event BootnodesAdded:
    manager: indexed(address)
    count: uint256

event BootnodeRemoved:
    manager: indexed(address)
    index: uint256

event AllBootnodesCleared:
    manager: indexed(address)

event RoleGranted:
    role: indexed(bytes32)
    account: indexed(address)
    sender: indexed(address)

event RoleRevoked:
    role: indexed(bytes32)
    account: indexed(address)
    sender: indexed(address)

currentRound: public(uint256)
currentStage: public(uint256)
stageCount: public(immutable(uint256))
hasRole: public(HashMap[bytes32, HashMap[address, bool]])
uniqueVoters: public(uint256)
peerCount: public(uint256)

bootnodes: DynArray[String[MAX_ADDRESS], MAX_BOOTNODES]
peers: HashMap[uint256, String[MAX_ID]]
eoaOf: HashMap[String[MAX_ID], address]
idsOf: HashMap[address, DynArray[String[MAX_ID], MAX_IDS]]
isReported: HashMap[uint256, HashMap[uint256, HashMap[String[MAX_ID], bool]]]
accountReward: HashMap[uint256, HashMap[uint256, HashMap[address, int256]]]
totalReward: HashMap[String[MAX_ID], int256]
votes: HashMap[uint256, HashMap[String[MAX_ID], DynArray[String[MAX_ID], MAX_WINNERS]]]
voteCount: HashMap[String[MAX_ID], uint256]
wins: HashMap[String[MAX_ID], uint256]
rootOf: HashMap[uint256, HashMap[String[MAX_ID], bytes32]]


@deploy
def __init__(owner: address, stages: uint256):
    assert stages > 0 and owner != empty(address)
    stageCount = stages
    for role: bytes32 in [OWNER_ROLE, STAGE_MANAGER_ROLE, BOOTNODE_MANAGER_ROLE]:
        self.hasRole[role][owner] = True
        log RoleGranted(role=role, account=owner, sender=msg.sender)


# Peers


@external
def registerPeer(peerId: String[MAX_ID]):
    """
    @notice Take a peer id; it belongs to the sender from then on.
    """
    if self.eoaOf[peerId] != empty(address) or len(peerId) == 0:
        raw_revert(method_id("PeerIdAlreadyRegistered()"))
    self.eoaOf[peerId] = msg.sender
    self.idsOf[msg.sender].append(peerId)
    self.peers[self.peerCount] = peerId
    self.peerCount += 1
    log PeerRegistered(eoa=msg.sender, peerId=peerId)


@external
def submitReward(roundNumber: uint256, stageNumber: uint256, reward: int256, peerId: String[MAX_ID]):
    """
    @notice Report the reward of a peer in a stage that has begun; once per round, stage and peer.
    """
    self._require_begun(roundNumber)
    if stageNumber >= stageCount or (roundNumber == self.currentRound and stageNumber > self.currentStage):
        raw_revert(method_id("InvalidStageNumber()"))
    self._require_own(peerId)
    if self.isReported[roundNumber][stageNumber][peerId]:
        raw_revert(method_id("RewardAlreadySubmitted()"))
    self.isReported[roundNumber][stageNumber][peerId] = True
    self.accountReward[roundNumber][stageNumber][msg.sender] += reward
    self.totalReward[peerId] += reward
    log RewardSubmitted(
        account=msg.sender, roundNumber=roundNumber, stageNumber=stageNumber, reward=reward, peerId=peerId
    )
    log CumulativeRewardsUpdated(account=msg.sender, peerId=peerId, totalRewards=self.totalReward[peerId])


@external
def submitWinners(roundNumber: uint256, winners: DynArray[String[MAX_ID], MAX_WINNERS], peerId: String[MAX_ID]):
    """
    @notice Vote for the winners of a round that has begun, each named once; once per round and peer.
    """
    self._require_begun(roundNumber)
    self._require_own(peerId)
    if len(self.votes[roundNumber][peerId]) > 0:
        raw_revert(method_id("WinnerAlreadyVoted()"))
    if len(winners) == 0:
        raw_revert(method_id("InvalidVote()"))
    for at: uint256 in range(len(winners), bound=MAX_WINNERS):
        for before: uint256 in range(at, bound=MAX_WINNERS):
            if keccak256(winners[at]) == keccak256(winners[before]):
                raw_revert(method_id("InvalidVote()"))
        self.wins[winners[at]] += 1
    self.votes[roundNumber][peerId] = winners
    if self.voteCount[peerId] == 0:
        self.uniqueVoters += 1
    self.voteCount[peerId] += 1
    log WinnerSubmitted(account=msg.sender, peerId=peerId, roundNumber=roundNumber, winners=winners)


@external
def submitRoot(roundNumber: uint256, root: bytes32, rows: uint256, peerId: String[MAX_ID]):
    """
    @notice Commit to the rows behind the rewards of a round: the root of their Merkle tree; once per round and peer.
    """
    self._require_begun(roundNumber)
    self._require_own(peerId)
    if self.rootOf[roundNumber][peerId] != empty(bytes32) or root == empty(bytes32):
        raw_revert(method_id("RootAlreadySubmitted()"))
    self.rootOf[roundNumber][peerId] = root
    log RootSubmitted(account=msg.sender, roundNumber=roundNumber, root=root, rows=rows, peerId=peerId)


# Managers


@external
def updateStageAndRound() -> (uint256, uint256):
    """
    @notice Begin the next stage, after the last one the next round.
    """
    self._require_role(STAGE_MANAGER_ROLE, method_id("OnlyStageManager()"))
    if self.currentStage + 1 < stageCount:
        self.currentStage += 1
        log StageAdvanced(roundNumber=self.currentRound, newStage=self.currentStage)
    else:
        self.currentRound += 1
        self.currentStage = 0
        log RoundAdvanced(newRoundNumber=self.currentRound)
    return self.currentRound, self.currentStage


@external
def addBootnodes(newBootnodes: DynArray[String[MAX_ADDRESS], MAX_BOOTNODES]):
    """
    @notice Add addresses at which new peers find the swarm.
    """
    self._require_role(BOOTNODE_MANAGER_ROLE, method_id("OnlyBootnodeManager()"))
    for address_: String[MAX_ADDRESS] in newBootnodes:
        self.bootnodes.append(address_)
    log BootnodesAdded(manager=msg.sender, count=len(newBootnodes))


@external
def removeBootnode(index: uint256):
    """
    @notice Remove an address; the last one takes its place.
    """
    self._require_role(BOOTNODE_MANAGER_ROLE, method_id("OnlyBootnodeManager()"))
    if index >= len(self.bootnodes):
        raw_revert(method_id("InvalidBootnodeIndex()"))
    last: String[MAX_ADDRESS] = self.bootnodes.pop()
    if index < len(self.bootnodes):
        self.bootnodes[index] = last
    log BootnodeRemoved(manager=msg.sender, index=index)


@external
def clearBootnodes():
    """
    @notice Remove all addresses.
    """
    self._require_role(BOOTNODE_MANAGER_ROLE, method_id("OnlyBootnodeManager()"))
    self.bootnodes = []
    log AllBootnodesCleared(manager=msg.sender)


@external
def grantRole(role: bytes32, account: address):
    """
    @notice Give a role to an account.
    """
    self._require_role(OWNER_ROLE, method_id("OnlyOwner()"))
    self.hasRole[role][account] = True
    log RoleGranted(role=role, account=account, sender=msg.sender)


@external
def revokeRole(role: bytes32, account: address):
    """
    @notice Take a role from an account.
    """
    self._require_role(OWNER_ROLE, method_id("OnlyOwner()"))
    self.hasRole[role][account] = False
    log RoleRevoked(role=role, account=account, sender=msg.sender)


# Views


@external
@view
def getBootnodes() -> DynArray[String[MAX_ADDRESS], MAX_BOOTNODES]:
    return self.bootnodes


@external
@view
def getBootnodesCount() -> uint256:
    return len(self.bootnodes)


@external
@view
def getEoa(peerIds: DynArray[String[MAX_ID], MAX_ASKED]) -> DynArray[address, MAX_ASKED]:
    found: DynArray[address, MAX_ASKED] = []
    for peerId: String[MAX_ID] in peerIds:
        found.append(self.eoaOf[peerId])
    return found


@external
@view
def getPeerId(eoas: DynArray[address, MAX_ASKED]) -> DynArray[DynArray[String[MAX_ID], MAX_IDS], MAX_ASKED]:
    found: DynArray[DynArray[String[MAX_ID], MAX_IDS], MAX_ASKED] = []
    for eoa: address in eoas:
        found.append(self.idsOf[eoa])
    return found


@external
@view
def getTotalRewards(peerIds: DynArray[String[MAX_ID], MAX_ASKED]) -> DynArray[int256, MAX_ASKED]:
    found: DynArray[int256, MAX_ASKED] = []
    for peerId: String[MAX_ID] in peerIds:
        found.append(self.totalReward[peerId])
    return found


@external
@view
def getTotalWins(peerId: String[MAX_ID]) -> uint256:
    return self.wins[peerId]


@external
@view
def getRoundStageReward(
    roundNumber: uint256, stageNumber: uint256, accounts: DynArray[address, MAX_ASKED]
) -> DynArray[int256, MAX_ASKED]:
    found: DynArray[int256, MAX_ASKED] = []
    for account: address in accounts:
        found.append(self.accountReward[roundNumber][stageNumber][account])
    return found


@external
@view
def hasSubmittedRoundStageReward(roundNumber: uint256, stageNumber: uint256, peerId: String[MAX_ID]) -> bool:
    return self.isReported[roundNumber][stageNumber][peerId]


@external
@view
def getVoterVotes(roundNumber: uint256, peerId: String[MAX_ID]) -> DynArray[String[MAX_ID], MAX_WINNERS]:
    return self.votes[roundNumber][peerId]


@external
@view
def getVoterVoteCount(peerId: String[MAX_ID]) -> uint256:
    return self.voteCount[peerId]


@external
@view
def getRoot(roundNumber: uint256, peerId: String[MAX_ID]) -> bytes32:
    return self.rootOf[roundNumber][peerId]


@external
@view
def rewardLeaderboard(first: uint256, count: uint256) -> (DynArray[String[MAX_ID], PAGE], DynArray[int256, PAGE]):
    """
    @notice Return a page of the peers by total reward, highest first; among equals whoever registered first. Of the
            first 1024 peers: read the events for more.
    """
    peerIds: DynArray[String[MAX_ID], PAGE] = []
    totals: DynArray[int256, PAGE] = []
    places: DynArray[uint256, PAGE] = self._page(self._totals(), first, count)
    for at: uint256 in places:
        peerIds.append(self.peers[at])
        totals.append(self.totalReward[self.peers[at]])
    return peerIds, totals


@external
@view
def winnerLeaderboard(first: uint256, count: uint256) -> (DynArray[String[MAX_ID], PAGE], DynArray[uint256, PAGE]):
    """
    @notice Return a page of the registered peers by votes that named them, as `rewardLeaderboard`.
    """
    totals: DynArray[int256, MAX_RANKED] = []
    for at: uint256 in range(min(self.peerCount, MAX_RANKED), bound=MAX_RANKED):
        totals.append(convert(self.wins[self.peers[at]], int256))
    peerIds: DynArray[String[MAX_ID], PAGE] = []
    wins: DynArray[uint256, PAGE] = []
    places: DynArray[uint256, PAGE] = self._page(totals, first, count)
    for at: uint256 in places:
        peerIds.append(self.peers[at])
        wins.append(self.wins[self.peers[at]])
    return peerIds, wins


@internal
@view
def _totals() -> DynArray[int256, MAX_RANKED]:
    totals: DynArray[int256, MAX_RANKED] = []
    for at: uint256 in range(min(self.peerCount, MAX_RANKED), bound=MAX_RANKED):
        totals.append(self.totalReward[self.peers[at]])
    return totals


@internal
@pure
def _page(totals: DynArray[int256, MAX_RANKED], first: uint256, count: uint256) -> DynArray[uint256, PAGE]:
    """
    @notice Return the places of a page of the highest totals: each is the next one below that before it.
    """
    page: DynArray[uint256, PAGE] = []
    if first >= len(totals):
        return page
    above: int256 = max_value(int256)
    last: uint256 = 0
    is_first: bool = True
    for rank: uint256 in range(min(first + min(count, PAGE), len(totals)), bound=MAX_RANKED):
        best: int256 = min_value(int256)
        place: uint256 = max_value(uint256)
        for at: uint256 in range(len(totals), bound=MAX_RANKED):
            value: int256 = totals[at]
            if (is_first or value < above or (value == above and at > last)) and (
                place == max_value(uint256) or value > best
            ):
                best = value
                place = at
        above = best
        last = place
        is_first = False
        if rank >= first:
            page.append(place)
    return page


@internal
@view
def _require_begun(roundNumber: uint256):
    if roundNumber > self.currentRound:
        raw_revert(method_id("InvalidRoundNumber()"))


@internal
@view
def _require_own(peerId: String[MAX_ID]):
    if self.eoaOf[peerId] != msg.sender:
        raw_revert(method_id("InvalidVoterPeerId()"))


@internal
@view
def _require_role(role: bytes32, error: Bytes[4]):
    if not self.hasRole[role][msg.sender]:
        raw_revert(error)
